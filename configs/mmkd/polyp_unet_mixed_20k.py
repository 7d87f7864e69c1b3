# As polyp_unet_mixed.py, counted in iterations: 20,000 of them, MMSegmentation's convention.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
_base_ = [
    '../_base_/models/unet_mixed.py',
    '../_base_/datasets/kvasir_segmentation.py',
    '../_base_/schedules/adamw_20k.py',
    '../_base_/segmentation_iter_runtime.py',
]
