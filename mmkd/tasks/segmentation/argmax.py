from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class QuickArgmax(TorchFunctionMode):
    """Inside, a tensor's argmax over its first dimension is that of `max`, which is the same.

    MMSegmentation takes it of each image's scores at full size. On CPUs torch's argmax over a
    dimension that is not the last takes ten times as long as its max, which gives the index, too:
    the first one of several equal values.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run a function of torch's."""
        kwargs = kwargs or {}
        if func is Tensor.argmax and kwargs.get('dim') == 0 and args[0].device.type == 'cpu':
            return args[0].max(**kwargs).indices
        return func(*args, **kwargs)
