from .curves import draw_curves
from .sheet import draw_sheet

__all__ = ['draw_curves', 'draw_sheet']
