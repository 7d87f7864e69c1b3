"""Import a toolbox without the packages that a few of its classes alone need.

MMDetection, MMSegmentation and MMPretrain import packages at the top of a module which one class
in it uses, and each other where they are installed. That is half of the time from a command to its
first step. Such a package is imported here when something of it is first called.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pkgutil import resolve_name
from types import ModuleType
from typing import Any

# Of these the toolboxes call functions and classes only, inside of functions.
CALLED_ONLY = ('imagecorruptions', 'imgaug', 'skimage', 'sklearn', 'timm')
# What in a config (lower case) needs another toolbox than the config's own, beside its name.
NEEDS = {
    'mmdet': ('mmdet', 'mask2former', 'maskformer'),  # MMSegmentation's heads are MMDetection's
    'mmseg': ('mmseg',),
    'mmpretrain': ('mmpretrain', 'reid', 'onedl'),  # MMDetection's ReID, MMSegmentation's OneDL
}


class Later(ModuleType):
    """A package, or a name of one, that is imported when it is called."""

    __path__: list[str] = []

    def __getattr__(self, name: str) -> Later:
        """Return the name in the package, not imported either."""
        if name.startswith('__'):
            raise AttributeError(f'{self.__name__}.{name}')
        return Later(f'{self.__name__}.{name}')

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Import it and call it."""
        return resolve_name(self.__name__)(*args, **kwargs)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives `Later` for some packages, and says of others that they are not installed."""

    def __init__(self, later: Iterable[str], hidden: Iterable[str]) -> None:
        self.later, self.hidden = set(later), set(hidden)

    def find_spec(
        self, name: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Find those packages and their modules; nothing else."""
        package = name.partition('.')[0]
        if package in self.hidden:
            raise ModuleNotFoundError(f'No module named {name!r}', name=name)
        return importlib.machinery.ModuleSpec(name, self) if package in self.later else None

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> Later:
        """Return the stand-in."""
        return Later(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        """Do nothing: a stand-in has no content."""


@contextmanager
def light_imports(hidden: Iterable[str] = ()) -> Iterator[None]:
    """Import modules in the block without `CALLED_ONLY`.

    After the block every package is found as usual.

    Args:
        hidden: Packages that are not found in the block, unless they are imported already.
    """
    later = [
        name for name in CALLED_ONLY if name not in sys.modules and importlib.util.find_spec(name)
    ]
    finder = _Finder(later, (name for name in hidden if name not in sys.modules))
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name, module in sys.modules.items() if isinstance(module, Later)]:
            del sys.modules[name]


def toolboxes_without_need(cfg: Mapping[str, Any]) -> list[str]:
    """Return the toolboxes that nothing in a config asks for.

    None where members' networks are in files that are not read yet: they may ask for any.
    """
    members = (cfg.get('model') or {}).get('members') or {}
    files = [member.get('config') for member in members.values() if isinstance(member, Mapping)]
    if any(isinstance(file, str) and '::' not in file for file in files):
        return []
    text = str(cfg).lower()
    return [name for name, words in NEEDS.items() if not any(word in text for word in words)]
