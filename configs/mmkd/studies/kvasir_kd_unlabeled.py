# Two students with an ImageNet encoder each and 10 % of Kvasir-SEG's labels; a frozen teacher that
# was trained on all labels (docs/studies/kvasir_kd_unlabeled). The teacher first:
#   python tools/train.py configs/mmkd/studies/kvasir_teacher_96.py \
#       --work-dir work_dirs/studies/kvasir_teacher
_base_ = './kvasir_unlabeled.py'
model = dict(
    members=dict(
        teacher=dict(
            config=_base_.lite0_fpn,
            options={'backbone.arch': 'lite1'},
            training='frozen',
            checkpoint='work_dirs/studies/kvasir_teacher/epoch_16.pth',
        )
    ),
    sharing=dict(
        _delete_=True,
        type='kd_p',
        # The form of the task's own loss, with the teacher's probabilities in place of labels.
        prediction=dict(type='PseudoLabel', mode='soft', dice_weight=1.0),
    ),
)
