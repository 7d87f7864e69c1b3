from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd.utils.errors import ConfigError

if TYPE_CHECKING:
    from mmkd.tasks import Task


class Mix:
    """One training batch as a mixer leaves it, and what else is done while a member runs on it.

    Args:
        inputs: Images (N, C, H, W) as the members get them.
        data_samples: The images' ground truth, one per image.
    """

    def __init__(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> None:
        self.inputs, self.data_samples = inputs, data_samples

    def applied_to(self, name: str, network: nn.Module) -> AbstractContextManager[None]:
        """Return the context in which the member `name` runs; for mixers that act inside it."""
        return nullcontext()

    def valid_mask(self, mask: Tensor) -> Tensor:
        """Return which positions (N, 1, H, W) count, given those of `data_samples`."""
        return mask


class Mixer(ABC):
    """Changes each training batch before the members run, equally for all of them.

    Not called outside training. Its random numbers come from a stream of its own.

    Args:
        task: The members' task; `task.mixing` knows its ground truth.
        networks: The members' networks by name.
        preprocessor: The shared data preprocessor.

    Raises:
        ConfigError: If mixers do not know the task, or the preprocessor mixes already.

    Examples:
        >>> @MODELS.register_module()
        ... class FlipMixer(Mixer):
        ...     def __init__(self, task, networks, preprocessor, prob=0.5):
        ...         super().__init__(task, networks, preprocessor)
        ...         self.prob, self.generator = prob, torch.Generator().manual_seed(0)
        ...
        ...     def __call__(self, inputs, data_samples):
        ...         if torch.rand((), generator=self.generator) < self.prob:
        ...             inputs = inputs.flip(-1)  # classification: labels stay
        ...         return Mix(inputs, list(data_samples))
    """

    def __init__(
        self, task: Task, networks: Mapping[str, nn.Module], preprocessor: nn.Module
    ) -> None:
        if task.mixing is None:
            raise ConfigError(f'mixers do not know the task {type(task).__name__}')
        self.task, self.mixing = task, task.mixing
        self.mixing.check_mixing(preprocessor)

    @abstractmethod
    def __call__(self, inputs: Tensor, data_samples: list[BaseDataElement]) -> Mix:
        """Mix the batch of one training step.

        Args:
            inputs: Preprocessed images (N, C, H, W). Not changed.
            data_samples: One per image. Not changed.
        """

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed training has to restore, for checkpoints."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Go on from a state of `state_dict`."""
