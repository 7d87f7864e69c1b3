from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mmengine.structures import BaseDataElement
from torch import nn

from mmkd.utils.errors import ConfigError

from .stages import backbone_stages
from .types import Box, Network

if TYPE_CHECKING:
    from .base import Task


class TaskMixing(ABC):
    """What a mixer has to know of a task: classes, ground truth in a box, stages, losses.

    A task offers it as its attribute `mixing`.

    Args:
        task: The task.

    Attributes:
        gt_argument: What a head's loss method calls the ground truth.
        mixes_features: Whether a mixer may mix inside the networks, not at the input only.
        cuts_gt: Whether `paste` takes the ground truth along, so that classes may differ.

    Examples:
        >>> class PoseMixing(TaskMixing):
        ...     gt_argument = 'batch_data_samples'
        ...
        ...     def classes_of(self, sample):
        ...         return frozenset()
        ...
        ...     def paste(self, sample, other, box):
        ...         raise ConfigError('model.mixer: poses cannot be cut: set local_prob=0')
        ...
        ...     def loss_methods(self, network):
        ...         return {'head': 'loss_by_feat'}
    """

    gt_argument: ClassVar[str]
    mixes_features: ClassVar[bool] = True
    cuts_gt: ClassVar[bool] = True

    def __init__(self, task: Task) -> None:
        self.task = task

    @abstractmethod
    def classes_of(self, sample: BaseDataElement) -> frozenset[int]:
        """Return the classes in a data sample's ground truth."""

    def same_class(self, one: frozenset[int], other: frozenset[int]) -> bool:
        """Whether two images with these classes (of `classes_of`) are of the same class."""
        return one == other

    @abstractmethod
    def paste(self, sample: BaseDataElement, other: BaseDataElement, box: Box) -> BaseDataElement:
        """Return a copy of `sample` whose ground truth inside `box` is that of `other`."""

    def stages_of(self, network: Network) -> list[str]:
        """Return the module paths whose outputs are the backbone's stages 1, 2, ...

        Empty for backbones that mmkd does not know.
        """
        return backbone_stages(network.backbone)

    @abstractmethod
    def loss_methods(self, network: Network) -> dict[str, str]:
        """Return the methods that make losses of outputs and ground truth, by the head's path.

        Raises:
            ConfigError: If the network computes its loss otherwise.
        """

    def gt_arguments(self, data_samples: list[BaseDataElement]) -> dict[str, Any]:
        """Return the arguments by which the methods of `loss_methods` get the ground truth."""
        return {self.gt_argument: data_samples}

    def check_mixing(self, preprocessor: nn.Module) -> None:  # noqa: B027
        """Raise a ConfigError if what the shared data preprocessor does cannot go with a mixer."""

    def check_soft_labels(self, name: str, network: Network) -> None:
        """Raise a ConfigError unless the losses of the member `name` take mixed labels."""
        raise ConfigError(f"labels: 'soft' is for classification, got {type(network).__name__}")

    def soft_labels(
        self, samples: Sequence[BaseDataElement], others: Sequence[BaseDataElement], lam: float
    ) -> list[BaseDataElement]:
        """Return copies of `samples` with labels mixed with the `others`', share `lam` their own.

        Only for tasks whose `check_soft_labels` accepts a network.
        """
        raise NotImplementedError
