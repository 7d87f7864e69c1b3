from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from mmpretrain.structures import DataSample, label_to_onehot
from torch import nn
from typing_extensions import override

from mmkd.utils.errors import ConfigError

from ..mixing import TaskMixing
from ..types import Box, Network

if TYPE_CHECKING:
    from .classification_task import ClassificationTask


class ClassificationMixing(TaskMixing):
    """Mixing of classifiers' images, for one label or several, also with mixed labels."""

    task: ClassificationTask

    gt_argument = 'data_samples'
    cuts_gt = False

    @override
    def classes_of(self, sample: DataSample) -> frozenset[int]:
        return frozenset(sample.gt_label.tolist())

    @override
    def paste(self, sample: DataSample, other: DataSample, box: Box) -> DataSample:
        return sample  # of the same class

    @override
    def loss_methods(self, network: Network) -> dict[str, str]:
        return {'head': '_get_loss'}

    @override
    def check_mixing(self, preprocessor: nn.Module) -> None:
        if getattr(preprocessor, 'batch_augments', None) is not None:
            raise ConfigError(
                'model.data_preprocessor.batch_augments mixes the images already: set it to None, '
                'or leave out the mixer'
            )

    @override
    def check_soft_labels(self, name: str, network: Network) -> None:
        head = copy.deepcopy(network.head).cpu()
        if not hasattr(head, 'num_classes'):
            raise ConfigError(
                f"labels: 'soft' needs the number of classes, which {type(head).__name__} of "
                f'{name!r} does not tell'
            )
        sample = DataSample().set_gt_score(torch.full((head.num_classes,), 1 / head.num_classes))
        try:
            value = head._get_loss(torch.zeros(2, head.num_classes), [sample, sample])['loss']
        except (
            AssertionError,
            AttributeError,
            IndexError,
            KeyError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            loss = type(getattr(head, 'loss_module', head)).__name__
            raise ConfigError(
                f'labels: the loss {loss} of {name!r} takes no mixed labels ({error}); '
                "set labels='index'"
            ) from error
        if value.numel() != 1 or not value.isfinite():
            raise ConfigError(
                f"labels: the loss of {name!r} gives {value} for mixed labels; set labels='index'"
            )

    @override
    def soft_labels(
        self, samples: Sequence[DataSample], others: Sequence[DataSample], lam: float
    ) -> list[DataSample]:
        heads = [getattr(network, 'head', None) for network in self.task.networks.values()]
        classes = next(head.num_classes for head in heads if head is not None)
        mixed = []
        for sample, other in zip(samples, others):
            own, theirs = (label_to_onehot(s.gt_label, classes).float() for s in (sample, other))
            mixed.append(sample.clone().set_gt_score(lam * own + (1 - lam) * theirs))
        return mixed
