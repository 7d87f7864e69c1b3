from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mmengine.structures import BaseDataElement
from mmpretrain.models import BaseClassifier, HuggingFaceClassifier, TimmClassifier
from mmpretrain.models.heads import MultiLabelClsHead
from torch import Tensor, nn
from typing_extensions import override

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from ..base import Task, last_level
from ..types import Network, TapReader
from .drawing import ClassificationDrawing
from .mixing import ClassificationMixing

if TYPE_CHECKING:
    from mmkd.models.ensembles import Ensemble

TAU = 3.0  # what helped peers in docs/studies/tiny20_peers
# One module of another library, whose output is the logits.
WHOLE = (TimmClassifier, HuggingFaceClassifier)


@TASKS.register_module('classification')
class ClassificationTask(Task):
    """Classification by MMPretrain's networks, of one label or of several.

    Taps: `prediction` is the head's output, logits (N, classes); `feature` the backbone's last
    output, another one by a module path (`feature_tap='backbone[2]'`, `feature_tap='neck'`).
    Networks without a head (feature extractors) have `feature` only and cannot be fused. Those of
    timm and Hugging Face have `prediction`, and features by module paths (`model.layer4`).
    """

    def __init__(self, networks: Mapping[str, nn.Module]) -> None:
        super().__init__(networks)
        heads = {name: getattr(network, 'head', None) for name, network in networks.items()}
        self.heads = {name: head for name, head in heads.items() if head is not None}
        kinds = {isinstance(head, MultiLabelClsHead) for head in self.heads.values()}
        whole = {name: own for name, own in networks.items() if isinstance(own, WHOLE)}
        if True in kinds and (len(kinds) > 1 or whole):
            named = {name: type(own).__name__ for name, own in {**self.heads, **whole}.items()}
            raise ConfigError(f'model.members: some heads are multi-label, others not: {named}')
        self.multi_label = True in kinds
        self.mixing = ClassificationMixing(self)
        self.drawing = ClassificationDrawing(self)

    @classmethod
    @override
    def fits(cls, network: Network) -> bool:
        return isinstance(network, BaseClassifier)

    @override
    def resolve_tap(self, name: str, network: Network, key: str) -> tuple[str, TapReader | None]:
        if isinstance(network, WHOLE):
            if name == 'feature':
                raise ConfigError(
                    f'{key}: {type(network).__name__} of {self.name_of(network)!r} does not tell '
                    "where its features are: name a module's path, such as 'model.layer4'"
                )
            return 'model', _logits
        if name == 'feature':
            return 'backbone', last_level
        if getattr(network, 'head', None) is None:
            raise ConfigError(
                f'{key}: {type(network).__name__} of {self.name_of(network)!r} has no head for the '
                "'prediction' tap; tap its features ('feature')"
            )
        return 'head', None

    @override
    def default_loss(self, tap: str) -> dict | None:
        if tap == 'prediction':
            if self.multi_label:
                return dict(type='KLDivergence', mode='sigmoid')
            return dict(type='KLDivergence', mode='softmax', tau=TAU)
        return super().default_loss(tap)

    @override
    def run_for_taps(
        self,
        network: Network,
        inputs: Tensor,
        data_samples: Sequence[BaseDataElement] | None,
        paths: Sequence[str],
    ) -> None:
        if all(path.split('.')[0] == 'backbone' for path in paths):
            network.extract_feat(inputs, stage='backbone')
        else:
            network(inputs, data_samples, mode='tensor')

    @override
    def predicts(self, network: Network) -> bool:
        return isinstance(network, WHOLE) or getattr(network, 'head', None) is not None

    @override
    def num_classes(self, network: Network) -> int | None:
        if isinstance(network, TimmClassifier):
            return getattr(network.model, 'num_classes', None)
        if isinstance(network, HuggingFaceClassifier):
            return getattr(network.model, 'num_labels', None)
        return getattr(getattr(network, 'head', None), 'num_classes', None)

    @override
    def build_ensemble(self, members: Sequence[str], **cfg: Any) -> Ensemble:
        for name in members:
            if not self.predicts(self.networks[name]):
                raise ConfigError(
                    f'model.ensemble.members: {name!r} has no head and predicts nothing to fuse'
                )
        counts = {name: self.num_classes(self.networks[name]) for name in members}
        self.check_equal(
            {name: count for name, count in counts.items() if count is not None},
            'classes',
            'model.ensemble.members',
        )
        if self.multi_label and 'thr' not in cfg and 'topk' not in cfg:
            head = self.heads[members[0]]
            cfg.update(thr=head.thr, topk=head.topk)
        return build_checked(
            MODELS,
            dict(type='ClassificationEnsemble', multi_label=self.multi_label, **cfg),
            'model.ensemble',
        )


def _logits(module: nn.Module, output: Any) -> Tensor:
    return getattr(output, 'logits', output)
