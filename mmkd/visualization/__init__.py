from .curves import draw_curves
from .panels import feature_panels, member_panels, stack_rows

__all__ = ['draw_curves', 'feature_panels', 'member_panels', 'stack_rows']
