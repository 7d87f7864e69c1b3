# Mixed sharing (arXiv 2212.02931) for polyp segmentation: a U-Net teacher and two narrow U-Net
# students, on a GPU.
# Data: python tools/convert_polyp.py IMAGES MASKS data/kvasir
_base_ = [
    '../_base_/models/unet_mixed.py',
    '../_base_/datasets/kvasir_segmentation.py',
    '../_base_/schedules/adamw_100e.py',
    '../_base_/segmentation_runtime.py',
]
