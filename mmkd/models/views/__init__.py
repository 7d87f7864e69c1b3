from .same_view import SameView
from .strong_view import Changed, StrongView

__all__ = ['Changed', 'SameView', 'StrongView']
