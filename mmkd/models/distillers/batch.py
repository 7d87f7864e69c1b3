"""The images of a training step as links see them."""

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .members import Readings


@dataclass
class Batch:
    """Images as the members see them in one step, and what their taps read on them.

    A step has the `labeled` batch and, where a link acts on unlabeled images, their `weak` and
    `strong` views.
    """

    inputs: Tensor
    data_samples: list[Any] | None = None
    mask: Tensor | None = None
    readings: Readings = field(default_factory=dict)

    def __post_init__(self) -> None:
        # Of its own: links on unlabeled images get these, but no data samples.
        self.image_metas = metas_of(self.inputs, self.data_samples)


def metas_of(inputs: Tensor, data_samples: list[Any] | None) -> list[dict[str, Any]]:
    """Return what is known of each image: of its sample, else that it fills the input."""
    if data_samples is not None:
        return [dict(sample.metainfo) for sample in data_samples]
    shape = tuple(inputs.shape[-2:])
    keys = ('img_shape', 'ori_shape', 'pad_shape', 'batch_input_shape')
    return [dict.fromkeys(keys, shape) for _ in inputs]
