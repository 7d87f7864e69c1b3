"""mmkd: online knowledge distillation and mutual learning between peer networks, for OpenMMLab.

`custom_imports = dict(imports=['mmkd'])` in a config registers everything.
"""
from . import datasets, engine, models, tasks  # noqa: F401
from .version import __version__

__all__ = ['__version__']
