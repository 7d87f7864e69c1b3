"""Make `import torchvision` work where a CUDA build of it stands beside a CPU-only torch.

PyPI has torchvision as a CUDA build only. Beside a CPU-only torch its operators cannot be loaded
and its import fails (`operator torchvision::nms does not exist`), and with it that of mmpretrain
and of mmdet's models. Declaring the two operators that the import looks up makes all its Python
parts (the transforms) work. This file imports nothing of mmkd: tools/setup_env.sh puts a copy into
such an environment, so that the plain toolboxes work there, too.
"""

import importlib.abc
import importlib.machinery
import sys
import warnings
from pathlib import Path
from typing import Any

SCHEMA = '(Tensor dets, Tensor scores, float iou_threshold) -> Tensor'


class _BeforeTorchvision(importlib.abc.MetaPathFinder):
    """Runs once, right before the first import of torchvision, which then goes its usual way."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        """Declare the operators if it is torchvision that is imported; find nothing."""
        if name == 'torchvision':
            sys.meta_path.remove(self)
            declare_missing_operators()


def declare_missing_operators() -> bool:
    """Declare `torchvision::nms` and `qnms` if torch is CPU-only and they cannot be loaded.

    Returns:
        Whether they were declared.
    """
    import torch

    spec = importlib.machinery.PathFinder.find_spec('torchvision')
    if spec is None or spec.origin is None or torch.version.cuda is not None:
        return False
    extension = next(Path(spec.origin).parent.glob('_C*.so'), None)
    if extension is None:
        return False
    try:
        torch.ops.load_library(str(extension))
        return False
    except OSError as error:
        reason = str(error).splitlines()[0]
    for name in ('nms', 'qnms'):
        torch.library.define(f'torchvision::{name}', SCHEMA)
    warnings.warn(
        "torchvision's operators are declared but cannot run beside this CPU-only torch "
        f'({reason}); its transforms work'
    )
    return True


def install() -> None:
    """Have the operators declared, if need be, when torchvision is first imported."""
    if 'torchvision' not in sys.modules and not any(
        type(f).__name__ == '_BeforeTorchvision' for f in sys.meta_path
    ):
        sys.meta_path.insert(0, _BeforeTorchvision())
