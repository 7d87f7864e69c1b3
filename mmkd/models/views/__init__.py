from .strong_view import Changed, StrongView

__all__ = ['Changed', 'StrongView']
