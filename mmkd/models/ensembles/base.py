from abc import ABC, abstractmethod
from collections.abc import Sequence

from mmengine.structures import BaseDataElement
from torch import nn


class Ensemble(nn.Module, ABC):
    """Fuses the predictions of several members for one image.

    A task builds its ensemble in `Task.build_ensemble`; a project's own is registered in
    `mmkd.registry.MODELS`.

    Examples:
        >>> @MODELS.register_module()
        ... class BestMember(Ensemble):
        ...     def fuse_samples(self, samples):
        ...         return max(samples, key=lambda s: s.pred_score.max()).clone()
    """

    @abstractmethod
    def fuse_samples(self, samples: Sequence[BaseDataElement]) -> BaseDataElement:
        """Fuse the members' predictions of one image.

        Args:
            samples: One per member, each with the task's prediction. Not changed.

        Returns:
            The first sample's ground truth and metainfo with the fused prediction.
        """

    def fuse_batch(self, samples: Sequence[Sequence[BaseDataElement]]) -> list[BaseDataElement]:
        """Fuse the members' predictions of a batch, image by image if it is not overridden.

        Args:
            samples: Of each member, one per image. Not changed.

        Returns:
            One per image.
        """
        return [self.fuse_samples(row) for row in zip(*samples)]

    def agreement(self, one: BaseDataElement, other: BaseDataElement) -> float | None:
        """Say how far two members' predictions of one image are the same.

        Validation gives the mean over images and pairs of members, in percent, as
        `ensemble/agreement`: members that always agree are no better together.

        Args:
            one: With a member's prediction.
            other: With another's.

        Returns:
            From 0 to 1; None where it is not measured, the default.
        """
        return None
