from abc import ABC, abstractmethod
from collections.abc import Sequence

from mmengine.structures import BaseDataElement
from torch import nn


class Ensemble(nn.Module, ABC):
    """Fuses the predictions of several members for one image.

    A task builds its ensemble in `Task.build_ensemble`; a project's own is registered in
    `mmkd.registry.MODELS`.

    Example:
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
