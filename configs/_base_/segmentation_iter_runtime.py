# As segmentation_runtime.py, for training that is counted in iterations.
_base_ = './segmentation_runtime.py'
default_hooks = dict(
    logger=dict(log_metric_by_epoch=False), checkpoint=dict(by_epoch=False, interval=2000)
)
log_processor = dict(by_epoch=False)
