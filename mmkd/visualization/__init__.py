from .curves import draw_curves
from .mlflow_backend import MLflowVisBackend
from .panels import feature_panels, member_panels, stack_rows

__all__ = ['MLflowVisBackend', 'draw_curves', 'feature_panels', 'member_panels', 'stack_rows']
