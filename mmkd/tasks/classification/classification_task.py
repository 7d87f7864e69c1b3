import copy

import numpy as np
import torch
from mmpretrain.models import BaseClassifier
from mmpretrain.models.heads import MultiLabelClsHead
from mmpretrain.structures import DataSample, label_to_onehot

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from ..base import Task, last_level


@TASKS.register_module('classification')
class ClassificationTask(Task):
    """Classification by MMPretrain's networks, of one label or of several.

    Taps: `prediction` is the head's output, logits (N, classes); `feature` the backbone's last output, another one by a
    module path (`feature_tap='backbone[2]'`, `feature_tap='neck'`).
    """

    truth_argument = 'data_samples'

    @classmethod
    def fits(cls, network):
        return isinstance(network, BaseClassifier)

    def __init__(self, networks):
        super().__init__(networks)
        kinds = {
            name: isinstance(network.head, MultiLabelClsHead) for name, network in networks.items()
        }
        if len(set(kinds.values())) > 1:
            raise ConfigError(
                'model.members: some heads are multi-label, others not: '
                f'{ {name: type(network.head).__name__ for name, network in networks.items()} }'
            )
        self.multi_label = any(kinds.values())

    def resolve_tap(self, name, network, key):
        return ('backbone', last_level) if name == 'feature' else ('head', None)

    def default_loss(self, tap):
        if tap == 'prediction':
            return dict(type='KLDivergence', mode='sigmoid' if self.multi_label else 'softmax')
        return super().default_loss(tap)

    def run_for_taps(self, network, inputs, data_samples, paths):
        if all(path.split('.')[0] == 'backbone' for path in paths):
            network.extract_feat(inputs, stage='backbone')
        else:
            network(inputs, data_samples, mode='tensor')

    def check_mixing(self, preprocessor):
        if getattr(preprocessor, 'batch_augments', None) is not None:
            raise ConfigError(
                'model.data_preprocessor.batch_augments mixes the images already: set it to None, or leave out '
                'the mixer'
            )

    def classes_of(self, sample):
        return frozenset(sample.gt_label.tolist())

    def paste(self, sample, other, box):
        return sample  # of the same class

    def loss_methods(self, network):
        return {'head': '_get_loss'}

    def check_soft_labels(self, name, network):
        head = copy.deepcopy(network.head).cpu()
        if not hasattr(head, 'num_classes'):
            raise ConfigError(
                f"labels: 'soft' needs the number of classes, which {type(head).__name__} of {name!r} lacks"
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
                f"labels: the loss {loss} of {name!r} takes no mixed labels ({error}); set labels='index'"
            ) from error
        if value.numel() != 1 or not value.isfinite():
            raise ConfigError(
                f"labels: the loss of {name!r} gives {value} for mixed labels; set labels='index'"
            )

    def soft_labels(self, samples, others, lam):
        """Return copies of `samples` with `gt_score`, lam times their own one-hot labels and (1 - lam) the others'."""
        classes = next(network.head.num_classes for network in self.networks.values())
        mixed = []
        for sample, other in zip(samples, others):
            own, theirs = (label_to_onehot(s.gt_label, classes).float() for s in (sample, other))
            mixed.append(sample.clone().set_gt_score(lam * own + (1 - lam) * theirs))
        return mixed

    def truth_of(self, dataset, index, sample):
        return sample.clone().set_pred_label(sample.gt_label)

    def draw(self, canvas, size, sample, colour, metainfo):
        lines = []
        for label in sample.pred_label.tolist():
            score = f' {sample.pred_score[label]:.2f}' if 'pred_score' in sample else ''
            lines.append(f'{metainfo["classes"][label]}{score}')
        canvas.draw_texts(
            '\n'.join(lines),
            np.array([6, 6]),
            colors=colour,
            font_sizes=11,
            bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none'),
        )

    def draw_disagreement(self, canvas, size, samples, colours, metainfo):
        said = {
            name: [metainfo['classes'][label] for label in sorted(s.pred_label.tolist())]
            for name, s in samples.items()
        }
        if len({tuple(labels) for labels in said.values()}) > 1:
            text = '\n'.join(f'{name}: {", ".join(labels)}' for name, labels in said.items())
            canvas.draw_texts(
                text,
                np.array([6, 6]),
                colors=(255, 23, 68),
                font_sizes=9,
                bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none'),
            )

    def build_ensemble(self, members, **cfg):
        heads = {name: self.networks[name].head for name in members}
        self.check_equal(
            {
                name: head.num_classes
                for name, head in heads.items()
                if hasattr(head, 'num_classes')
            },
            'classes',
            'model.ensemble.members',
        )
        if self.multi_label and 'thr' not in cfg and 'topk' not in cfg:
            cfg.update(thr=heads[members[0]].thr, topk=heads[members[0]].topk)
        return build_checked(
            MODELS,
            dict(type='ClassificationEnsemble', multi_label=self.multi_label, **cfg),
            'model.ensemble',
        )
