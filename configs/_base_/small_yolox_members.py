# Members for a machine without GPU: YOLOX of width 0.375 as the teacher, of width 0.25 as students; one input size.
_narrow = {
    'bbox_head.num_classes': 1,
    'backbone.widen_factor': 0.25,
    'neck.in_channels': [64, 128, 256],
    'neck.out_channels': 64,
    'bbox_head.in_channels': 64,
    'bbox_head.feat_channels': 64
}
model = dict(
    data_preprocessor=dict(batch_augments=None),
    members=dict(
        teacher=dict(config='mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'),
        student1=dict(options=_narrow),
        student2=dict(options=_narrow)))
