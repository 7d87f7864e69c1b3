"""Maps in the channels-last memory format for mmcv's operators, which read them in plain order."""

import functools
import importlib
from typing import Any

from torch import Tensor

# They take the address of a map and count in plain order (N, C, H, W). RoIAlign, RoIAlignRotated
# and ModulatedDeformConv2d say nothing of another order and return something else
# (https://github.com/open-mmlab/mmcv/issues/2203); RoIPool and CARAFE, which need CUDA, are written
# alike; DeformConv2d refuses it. Gradients are put into plain order by mmcv itself.
FUNCTIONS = (
    ('roi_align', 'RoIAlignFunction'),
    ('roi_align_rotated', 'RoIAlignRotatedFunction'),
    ('roi_pool', 'RoIPoolFunction'),
    ('deform_conv', 'DeformConv2dFunction'),
    ('modulated_deform_conv', 'ModulatedDeformConv2dFunction'),
    ('carafe', 'CARAFENaiveFunction'),
    ('carafe', 'CARAFEFunction'),
)


def let_operators_read_channels_last() -> None:
    """Have mmcv's operators put what they are given into plain order first.

    Called by whatever turns the channels-last format on. It acts on mmcv's functions, once in a
    process, since heads call them in many ways; on maps in plain order it changes nothing.
    """
    for file, name in FUNCTIONS:
        function = getattr(importlib.import_module(f'mmcv.ops.{file}'), name)
        if not hasattr(function.forward, '__wrapped__'):
            function.forward = staticmethod(_in_plain_order(function.forward))


def _in_plain_order(forward: Any) -> Any:
    @functools.wraps(forward)
    def wrapped(ctx: Any, *args: Any) -> Any:
        return forward(ctx, *(a.contiguous() if isinstance(a, Tensor) else a for a in args))

    return wrapped
