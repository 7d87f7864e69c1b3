"""What OpenMMLab's own packages of 2024, with torch 2.1, do otherwise than the maintained forks.

- `torch.load(weights_only=True)` before torch 2.7 knows no numpy, no set and none of mmengine's
  classes, and has no `safe_globals` that takes names for them.
- torch before 2.4 asks for the autocast of CPUs by a function of its own.
- mmengine 0.10.7 begins to load data when a training loop by iterations is built; its fork begins
  with the first iteration.
"""

import _codecs
import _compat_pickle
import pickle
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from mmengine.runner import loops

_pickle: Any = pickle  # the unpickler in Python has no types
_serialization: Any = torch.serialization
_BUILTIN: tuple[Any, ...] = (bytearray, set, complex, Counter, torch.device)


@contextmanager
def safe_globals(extra: Sequence[Any]) -> Iterator[None]:
    """Let `torch.load(weights_only=True)` inside build these, too, as torch's own since 2.7 does.

    Args:
        extra: Classes and functions, or pairs of one and the name that it has in files.
    """
    allowed = dict(torch._weights_only_unpickler._get_allowed_globals())
    allowed['_codecs.encode'] = _codecs.encode  # bytes
    for entry in (*_BUILTIN, *extra):
        value, name = (
            entry
            if isinstance(entry, tuple)
            else (entry, f'{entry.__module__}.{entry.__qualname__}')
        )
        allowed[name] = value
    unpickler = type('Unpickler', (_Unpickler,), dict(allowed=allowed))
    own = _serialization._weights_only_unpickler
    _serialization._weights_only_unpickler = SimpleNamespace(
        Unpickler=unpickler, load=lambda file, **kwargs: unpickler(file, **kwargs).load()
    )
    try:
        yield
    finally:
        _serialization._weights_only_unpickler = own


def autocast_enabled(device_type: str) -> bool:
    """Return whether operators of a device (`cpu`, `cuda`) run under autocast."""
    try:
        return torch.is_autocast_enabled(device_type)
    except TypeError:
        cpu = device_type == 'cpu'
        return torch.is_autocast_cpu_enabled() if cpu else torch.is_autocast_enabled()


def autocasts_to_float16(device_type: str) -> bool:
    """Return whether operators of a device (`cpu`, `cuda`) run in float16 under autocast."""
    if not autocast_enabled(device_type):
        return False
    if hasattr(torch, 'get_autocast_dtype'):
        return torch.get_autocast_dtype(device_type) == torch.float16
    cpu = device_type == 'cpu'
    return (
        torch.get_autocast_cpu_dtype if cpu else torch.get_autocast_gpu_dtype
    )() == torch.float16


@contextmanager
def no_early_batches() -> Iterator[None]:
    """Let mmengine's training loop by iterations be built without its iterator over the loader.

    It would start workers before the loader is wrapped, and use up an `InfiniteSampler`, which
    gives its indices once. mmkd's loops have streams in its place.
    """
    own = loops._InfiniteDataloaderIterator
    loops._InfiniteDataloaderIterator = lambda loader: None
    try:
        yield
    finally:
        loops._InfiniteDataloaderIterator = own


class _Unpickler(_pickle._Unpickler):
    """Python's own unpickler, which finds what is allowed and sets the state of that alone."""

    allowed: dict[str, Any] = {}
    dispatch = dict(_pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return what is allowed under this name."""
        if (module, name) in _compat_pickle.NAME_MAPPING:
            module, name = _compat_pickle.NAME_MAPPING[module, name]
        full = f'{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}'
        if full not in self.allowed:
            raise pickle.UnpicklingError(f'GLOBAL {full} is not for a checkpoint')
        return self.allowed[full]

    def load_build(self) -> None:
        """Set the state of an instance, not of a class or a function."""
        kind = type(self.stack[-2])
        if not any(kind is value for value in self.allowed.values()):
            raise pickle.UnpicklingError(f'the state of a {kind.__name__} is not for a checkpoint')
        super().load_build()

    dispatch[pickle.BUILD[0]] = load_build
