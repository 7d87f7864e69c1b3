import numpy as np
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

    def truth_of(self, dataset, index, sample):
        return sample.clone().set_pred_label(sample.gt_label)

    def draw(self, canvas, size, sample, colour, metainfo):
        lines = []
        for label in sample.pred_label.tolist():
            score = f' {sample.pred_score[label]:.2f}' if 'pred_score' in sample else ''
            lines.append(f'{metainfo["classes"][label]}{score}')
        canvas.draw_texts('\n'.join(lines), np.array([6, 6]), colors=colour, font_sizes=11,
                          bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none'))

    def draw_disagreement(self, canvas, size, samples, colours, metainfo):
        said = {name: [metainfo['classes'][label] for label in sorted(s.pred_label.tolist())] for name, s in samples.items()}
        if len({tuple(labels) for labels in said.values()}) > 1:
            text = '\n'.join(f'{name}: {", ".join(labels)}' for name, labels in said.items())
            canvas.draw_texts(text, np.array([6, 6]), colors=(255, 23, 68), font_sizes=9,
                              bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none'))

    def build_ensemble(self, members, **cfg):
        heads = {name: self.networks[name].head for name in members}
        self.check_equal({name: head.num_classes for name, head in heads.items() if hasattr(head, 'num_classes')}, 'classes',
                         'model.ensemble.members')
        if self.multi_label and 'thr' not in cfg and 'topk' not in cfg:
            cfg.update(thr=heads[members[0]].thr, topk=heads[members[0]].topk)
        return build_checked(MODELS, dict(type='ClassificationEnsemble', multi_label=self.multi_label, **cfg), 'model.ensemble')
