"""mmkd: online knowledge distillation and mutual learning between peer networks, for OpenMMLab."""
from .version import __version__

__all__ = ['__version__']
