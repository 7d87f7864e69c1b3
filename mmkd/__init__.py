"""mmkd: online knowledge distillation and mutual learning between peer networks, for OpenMMLab.

`custom_imports = dict(imports=['mmkd'])` in a config registers everything.
"""

from .utils import torchvision_shim

torchvision_shim.install()  # before anything imports torchvision

from . import datasets, engine, evaluation, models, tasks  # noqa: E402, F401
from .version import __version__  # noqa: E402

__all__ = ['__version__']
