from mmpretrain.models import BaseClassifier
from mmpretrain.models.heads import MultiLabelClsHead

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked

from ..base import Task, last_level


@TASKS.register_module('classification')
class ClassificationTask(Task):
    """Classification by MMPretrain's networks, of one label or of several.

    Taps: `prediction` is the head's output, logits (N, classes); `feature` the backbone's last output, another one by a
    module path (`feature_tap='backbone[2]'`, `feature_tap='neck'`).
    """

    @classmethod
    def fits(cls, network):
        return isinstance(network, BaseClassifier)

    def __init__(self, networks):
        super().__init__(networks)
        kinds = {name: isinstance(network.head, MultiLabelClsHead) for name, network in networks.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError('model.members: some heads are multi-label, others not: '
                             f'{ {name: type(network.head).__name__ for name, network in networks.items()} }')
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

    def build_ensemble(self, **cfg):
        if self.multi_label:
            head = next(iter(self.networks.values())).head
            cfg.setdefault('thr', head.thr)
            cfg.setdefault('topk', head.topk)
        return build_checked(MODELS, dict(type='ClassificationEnsemble', multi_label=self.multi_label, **cfg), 'model.ensemble')
