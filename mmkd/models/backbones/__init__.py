from mmkd.utils.packages import installed

if installed('mmpretrain'):
    from .efficientnet_lite import EfficientNetLite  # noqa: F401
