"""mmkd: online knowledge distillation and mutual learning between peer networks, for OpenMMLab.

`custom_imports = dict(imports=['mmkd'])` in a config makes everything available by its name,
`mmkd.OnlineDistiller`: mmengine imports `mmkd.registry` for the first such name, and the registries
import what is asked for.
"""

from .utils import torchvision_shim
from .version import __version__

torchvision_shim.install()  # before anything imports torchvision

__all__ = ['__version__']
