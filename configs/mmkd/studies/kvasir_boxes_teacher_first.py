# kvasir_boxes_unlabeled.py with a teacher that has the same 90 images with boxes and no others
# (docs/studies/kvasir_boxes_teacher_first): a larger detector that sees the images enlarged is
# trained first; frozen, it teaches two students on labeled and unlabeled images.
_base_ = './kvasir_boxes_unlabeled.py'
pretrain = dict(members='teacher')
model = dict(
    members=dict(
        teacher=dict(
            # Strides 8 and 16 of the images, and a level of stride 32 from the pyramid.
            options={
                'backbone.arch': 'lite2',
                'backbone.upscale': 2,
                'backbone.out_indices': (3, 4),
                'neck.in_channels': [120, 352],
            },
            training='online',
            checkpoint=None,
        )
    ),
    sharing=dict(on='both'),
)
