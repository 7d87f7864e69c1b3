from .curves import draw_curves
from .mlflow_backend import MLflowVisBackend
from .panels import feature_panels, member_panels, stack_rows
from .wandb_backend import WandbVisBackend

__all__ = [
    'MLflowVisBackend',
    'WandbVisBackend',
    'draw_curves',
    'feature_panels',
    'member_panels',
    'stack_rows',
]
