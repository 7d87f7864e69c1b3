"""What the distiller asks of a task: detection, segmentation, classification, or another."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from mmengine.structures import BaseDataElement
from torch import Tensor, nn

from mmkd.registry import TASKS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

from .drawing import TaskDrawing
from .mixing import TaskMixing
from .types import Network, TapReader

if TYPE_CHECKING:
    from mmkd.models.ensembles.base import Ensemble


class Task(ABC):
    """What is specific to one task: standard taps, default losses, the ensemble, running a network.

    Subclasses are registered in `mmkd.registry.TASKS` under the task's name. Mixing and drawing are
    contracts of their own, for tasks that offer them: `mixing` and `drawing`.

    Args:
        networks: The members' networks by name.

    Attributes:
        standard_taps: Names of taps that work for every network of the task.
        mixing: What mixers need, None for a task that mixers do not know.
        drawing: What pictures need, None for a task without pictures.

    Examples:
        >>> @TASKS.register_module('pose')
        ... class PoseTask(Task):
        ...     @classmethod
        ...     def fits(cls, network):
        ...         return isinstance(network, BasePoseEstimator)
        ...
        ...     def resolve_tap(self, name, network, key):
        ...         return ('backbone', last_level) if name == 'feature' else ('head', None)
        ...
        ...     def default_loss(self, tap):
        ...         if tap == 'prediction':
        ...             return dict(type='FeatureMSE')
        ...         return super().default_loss(tap)
        ...
        ...     def run_for_taps(self, network, inputs, data_samples, paths):
        ...         network(inputs, data_samples, mode='tensor')
        ...
        ...     def build_ensemble(self, members, **cfg):
        ...         return HeatmapEnsemble(**cfg)
    """

    standard_taps: ClassVar[tuple[str, ...]] = ('prediction', 'feature')
    mixing: TaskMixing | None = None
    drawing: TaskDrawing | None = None

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        self.networks: dict[str, Network] = dict(networks)

    def __deepcopy__(self, memo: dict) -> Task:
        # A task has no state of its own. Copying it would duplicate the frozen members.
        return self

    @classmethod
    @abstractmethod
    def fits(cls, network: Network) -> bool:
        """Whether `network` is one of this task's."""

    @abstractmethod
    def resolve_tap(self, name: str, network: Network, key: str) -> tuple[str, TapReader | None]:
        """Find where a standard tap reads.

        Args:
            name: One of `standard_taps`.
            network: The member's network.
            key: Where the tap stands in the config, for messages.

        Returns:
            The module's path, and what makes the tap's value of its output (None: nothing to do).

        Raises:
            ConfigError: If this network has no such tap.
        """

    def check_tap(self, path: str, network: Network, key: str) -> None:  # noqa: B027
        """Raise a ConfigError for a module path whose outputs no two members can compare."""

    def calls_forward(self, module: nn.Module) -> bool:
        """Whether a network calls this module's `forward` by name, which no hook sees."""
        return False

    def default_loss(self, tap: str) -> dict | None:
        """Return the config of the loss for a tap (also with `[i]`), None without a default."""
        return dict(type='PearsonFeature') if tap.split('[')[0] == 'feature' else None

    @abstractmethod
    def run_for_taps(
        self,
        network: Network,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None,
        paths: Sequence[str],
    ) -> None:
        """Run `network` without losses, as far as the modules at `paths` need.

        Called for members that are not trained, for the build-time probe, and in training mode with
        gradients for unlabeled images.

        Args:
            network: A member's network, in the mode that it is to run in.
            inputs: Preprocessed images (N, 3, H, W).
            data_samples: One per image; None for the probe and for unlabeled images.
            paths: Module paths of the taps that are read.

        Raises:
            ConfigError: If a module at `paths` cannot be tapped.
        """

    def valid_mask(self, data_samples: Sequence[BaseDataElement] | None) -> Tensor | None:
        """Return which positions count, (N, 1, H, W) of 0 and 1, or None where all do.

        Losses whose `forward` names `mask` get it.
        """
        return None

    def predicts(self, network: Network) -> bool:
        """Whether a network gives predictions to measure; a feature extractor does not."""
        return True

    def predict(
        self, network: Network, inputs: Tensor, data_samples: Sequence[BaseDataElement]
    ) -> list[Any]:
        """Return the data samples with a network's predictions, which are its own."""
        return network(inputs, data_samples, mode='predict')

    def num_classes(self, network: Network) -> int | None:
        """Return how many classes a network tells apart, None if it does not say."""
        return None

    @abstractmethod
    def build_ensemble(self, members: Sequence[str], **cfg: Any) -> Ensemble:
        """Build the module that fuses the predictions of `members`; `cfg` are its options."""

    @staticmethod
    def check_equal(values: Mapping[str, Any], what: str, key: str) -> None:
        """Raise a ConfigError unless all members' `values` (by name) are equal."""
        if len(set(values.values())) > 1:
            raise ConfigError(f'{key}: members differ in {what}: {dict(values)}')

    def name_of(self, network: Network) -> str:
        """Return the member's name of a network, for messages."""
        return next((name for name, own in self.networks.items() if own is network), 'a member')


def last_level(module: nn.Module, output: Any) -> Any:
    """Reader of a `feature` tap: the last of a module's several outputs."""
    return output[-1] if isinstance(output, (list, tuple)) else output


def task_of(networks: Mapping[str, nn.Module], name: str | None = None) -> Task:
    """Return the task called `name`, or the one that all `networks` belong to.

    Raises:
        ConfigError: If the networks belong to several tasks or to none that is known.
    """
    if name is not None:
        return TASKS.get(choose(name, TASKS.module_dict, 'model.task'))(networks)
    found = {
        member: [task for task in TASKS.module_dict.values() if task.fits(network)]
        for member, network in networks.items()
    }
    tasks = {task for candidates in found.values() for task in candidates}
    if len(tasks) != 1 or not all(found.values()):
        kinds = {member: type(network).__name__ for member, network in networks.items()}
        raise ConfigError(
            'model.members: all must be networks of one task '
            f'({", ".join(TASKS.module_dict)}), got {kinds}'
        )
    return tasks.pop()(networks)
