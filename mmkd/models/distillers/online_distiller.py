from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.dist import get_rank
from mmengine.logging import MessageHub
from mmengine.model import BaseModel
from torch import Tensor, nn

from mmkd.models.views import Changed
from mmkd.registry import MODELS
from mmkd.tasks import task_of
from mmkd.utils.checks import build_checked, check_arguments, check_different, choose
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.distributed import check_sync_bn
from mmkd.utils.errors import ConfigError
from mmkd.utils.random_stream import RandomStream
from mmkd.utils.roles import students_among
from mmkd.utils.samples import clone_samples

from .compiling import compile_members
from .in_turns import check_turns, train_in_turns
from .link_spec import LinkSpec
from .links import Links
from .member_spec import MemberSpec, derived_seed
from .members import Members, check_members
from .preprocessing import (
    pixel_statistics,
    preprocess_unlabeled,
    shared_preprocessor_config,
    tell_unused_augments,
)
from .sharing import PRESETS, UNLABELED_PRESETS, sharing_links, sharing_members
from .step import Step, mean_of, sum_of

# Sides of the image that finds the taps' shapes at build: the first that all members accept.
PROBE_SIZES = (128, 224, 256, 384, 512)


class MemberLosses(dict[str, Tensor]):
    """Each trained member's loss; stepped by `MemberOptimWrapper`.

    Args:
        losses: By member.
        terms: All named terms, without gradient.
        shared: By member, those terms of its loss that are its links', with gradient.
    """

    def __init__(
        self,
        losses: Mapping[str, Tensor],
        terms: dict[str, Tensor],
        shared: Mapping[str, list[Tensor]],
    ) -> None:
        super().__init__(losses)
        self.terms, self.shared = terms, shared

    def __truediv__(self, factor: float) -> 'MemberLosses':
        # mmengine's own optimizer wrappers divide the loss by the accumulated steps.
        raise ConfigError(
            "an OnlineDistiller's members have an optimizer each: set "
            "optim_wrapper.constructor='mmkd.MemberOptimWrapperConstructor' "
            '(configs/_base_/default_runtime.py does)'
        )


@MODELS.register_module()
class OnlineDistiller(BaseModel):
    """Several networks trained together online, sharing knowledge over links.

    One step: the batch is preprocessed once; each member runs forward once, its own `loss()`
    untouched, while its taps are recorded; each active link adds a term to its target's loss.
    Nothing flows into a link's source. Where links act on unlabeled images, each member that they
    need runs once more on each of the views (weak, strong) that it is needed on. For inference it
    is the ensemble of its students: `predict` returns the fused predictions as a plain model of
    the task does.

    Args:
        members: Arguments of `MemberSpec` by name. `name=None` drops an inherited member.
        sharing: A preset and its options, see `sharing_links`. Default: no links.
        links: Further links, see `LinkSpec`; one with the same source, target, taps and images as
            one of the preset's replaces it.
        ensemble: `members` (default: the students) and the arguments of the task's ensemble.
        mixer: Config of what mixes the images of a labeled batch (`MetaMixer`). Default: none.
        strong_view: Config of what makes the strong view of unlabeled images. Default:
            `StrongView`; `SameView`: targets see them as their sources do.
        max_share: The most that the links of one target may make together, as a share of its own
            gradient, for links whose weight is a `GradientShare`. Default: no limit.
        task: Name of the task; found from the networks by default.
        channels_last: Whether the members compute in the channels-last memory format, which is
            faster for most convolutional networks, on CPUs and with half precision on GPUs.
        in_turns: Whether the members are trained one after another, each with its links: the
            activations of one are in memory at a time, for a further forward pass, without
            gradient, of the members that others learn from. Gradients are the same.
        compile: Whether torch.compile makes the members' and links' forwards faster, or its
            options. Where it does not work a warning says why, and they run as they are.
        data_preprocessor: Shared preprocessing. Default: that of the first member that has one.
        backbone: Nothing, or empty: MMDetection's `init_detector` asks each model's config for it.
        pretrained: Nothing, or empty: MMSegmentation's `init_model` sets it.
        train_cfg: The same.

    Raises:
        ConfigError: At build, for whatever does not fit together: key, value and what is valid.
    """

    def __init__(
        self,
        members: Mapping[str, dict[str, Any] | None],
        sharing: dict[str, Any] | str | None = None,
        links: Sequence[dict[str, Any]] | None = None,
        ensemble: dict[str, Any] | None = None,
        mixer: dict[str, Any] | None = None,
        strong_view: dict[str, Any] | None = None,
        max_share: float | None = None,
        task: str | None = None,
        channels_last: bool = False,
        in_turns: bool = False,
        compile: bool | Mapping[str, Any] = False,
        data_preprocessor: dict[str, Any] | None = None,
        backbone: dict[str, Any] | None = None,
        pretrained: str | None = None,
        train_cfg: dict[str, Any] | None = None,
    ) -> None:
        for key, value in dict(
            backbone=backbone, pretrained=pretrained, train_cfg=train_cfg
        ).items():
            if value:
                raise ConfigError(
                    f'model.{key}: each member has its own; expected none, got {value}'
                )
        if not isinstance(members, dict) or not any(m is not None for m in members.values()):
            raise ConfigError(
                f'model.members: expected a dict of one or more members, got {members}'
            )
        given = {name: cfg for name, cfg in members.items() if cfg is not None}
        specs = {name: MemberSpec.from_config(name, cfg) for name, cfg in given.items()}
        preset = _preset(sharing, specs)
        added = sharing_members(
            preset.get('type', ''), preset.get('students', []), preset.get('ema_momentum', 0.01)
        )
        for name, cfg in added.items():
            specs.setdefault(name, MemberSpec.from_config(name, cfg))
        _check_ends(links, specs)
        check_members(specs)
        configs = {name: spec.config for name, spec in specs.items() if spec.config is not None}
        shared = shared_preprocessor_config(configs, data_preprocessor)
        with naming_keys(shared, 'model.data_preprocessor'):
            super().__init__(shared)
        tell_unused_augments(configs, shared)
        self.data_preprocessor.register_forward_hook(preprocess_unlabeled, with_kwargs=True)
        self.members = Members(specs, self.data_preprocessor, channels_last)
        self.task = task_of(self.members.networks(), task)
        check_sync_bn(self.members.networks())
        cfg = dict(ensemble or {})
        self.ensemble_members = list(cfg.pop('members', self.students(preset) or list(specs)))
        if not self.ensemble_members:
            raise ConfigError('model.ensemble.members: expected at least one member')
        for name in self.ensemble_members:
            choose(name, specs, 'model.ensemble.members')
        check_different(self.ensemble_members, 'model.ensemble.members')
        self.link_modules = Links(
            self._link_specs(preset, links or []), self.members, self.task, PROBE_SIZES, max_share
        )
        self.in_turns = in_turns
        if in_turns:
            check_turns(self.links)
        if compile or isinstance(compile, Mapping):
            compile_members(self.members, self.links, compile)
        self.ensemble = self.task.build_ensemble(self.ensemble_members, **cfg)
        self.mixer = None
        if mixer is not None:
            self.mixer = build_checked(
                MODELS,
                mixer,
                'model.mixer',
                task=self.task,
                networks=self.members.networks(),
                preprocessor=self.data_preprocessor,
            )
        compiles = compile or isinstance(compile, Mapping)
        if compiles and getattr(self.mixer, 'stages', None):
            raise ConfigError(
                'model.compile: compiled parts do not see that model.mixer mixes inside them: set '
                'mixer.depths=(0, ), or leave compile out'
            )
        self.strong_view = None
        if strong_view is not None or any(link.spec.on != 'labeled' for link in self.links):
            view = strong_view or dict(type='StrongView')
            self.strong_view = build_checked(MODELS, view, 'model.strong_view')
        if getattr(self.strong_view, 'cutmix', 0):
            self._check_moved()
        # Each rank's own: with one for all, they would see as many views as one alone.
        stream = f'strong_view{get_rank() or ""}'
        self.view_stream = RandomStream(derived_seed(torch.initial_seed(), stream))
        self.progress: float | None = None
        self._average_is_due = False

    def _link_specs(self, preset: dict[str, Any], links: Any) -> list[LinkSpec]:
        if not isinstance(links, (list, tuple)):
            raise ConfigError(f'model.links: expected a list of dicts, got {links!r}')

        def specs(configs: Sequence[Any], key: str) -> list[LinkSpec]:
            return [
                LinkSpec.from_config(cfg, f'{key}[{i}]', self.ensemble_members)
                for i, cfg in enumerate(configs)
            ]

        expanded = []
        if preset:
            expanded = sharing_links(list(self.specs), task=self.task, **preset)
        own = specs(links, 'model.links')
        replaced = {spec.endpoints for spec in own}
        planned = specs(expanded, f'model.sharing ({preset.get("type")})')
        return [spec for spec in planned if spec.endpoints not in replaced] + own

    def _check_moved(self) -> None:
        """Raise a ConfigError for a prediction on the weak view that CutMix cannot move along."""
        for link in self.links:
            _, *sources = link.forms
            maps = all(level is not None and level[0] == 4 for form in sources for level in form)
            if link.spec.on != 'labeled' and link.spec.source_view == 'weak' and not maps:
                raise ConfigError(
                    f'model.strong_view.cutmix: needs taps that give maps (N, C, H, W), and '
                    f'{link.source_tap!r} of {link.key} gives none; leave cutmix out'
                )

    def _load_from_state_dict(  # type: ignore[no-untyped-def]
        self, state_dict, prefix, *args, **kwargs
    ) -> None:
        # Both torch and mmengine load by it. mmengine would leave all as it is, with a warning.
        if not any(key.startswith(f'{prefix}members.') for key in state_dict):
            raise ConfigError(
                f'the checkpoint has no weights of members {self.members.online} (a plain '
                "network's?): name it as the start of each member that it fits, "
                'model.members.<name>.checkpoint'
            )
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)

    # ---------------------------------------------------------------- what it consists of

    @property
    def specs(self) -> dict[str, MemberSpec]:
        """What the config says of each member, by name."""
        return self.members.specs

    @property
    def links(self) -> Links:
        """The links."""
        return self.link_modules

    def network(self, name: str) -> nn.Module:
        """Return the network of the member `name`."""
        return self.members.network(name)

    def students(self, preset: Mapping[str, Any]) -> list[str]:
        """Return the online members but the preset's teacher."""
        return students_among({n: spec.training for n, spec in self.specs.items()}, preset)

    @property
    def evaluated(self) -> list[str]:
        """What one pass of evaluation measures: other members, the ensemble's, the ensemble.

        Members that do not predict (feature extractors) are left out.
        """
        others = [
            name
            for name in self.specs
            if name not in self.ensemble_members and self.task.predicts(self.network(name))
        ]
        return [*others, *self.ensemble_members, 'ensemble']

    def init_weights(self) -> None:
        """Initialize the online members, each in its own random stream; then the ema members."""
        self.members.init_weights()

    def trained_module(self, name: str) -> nn.Module:
        """Return what the optimizer of the online member `name` trains: network and links.

        Parameter names are the network's own, so that `paramwise_cfg` applies as if it were alone;
        those of its links begin with `links.`.
        """
        network = self.members[name]
        links = [link for link in self.links.of_target(name) if list(link.parameters())]
        if not links:
            return network
        holder = nn.Module()
        for key, child in network.named_children():
            holder.add_module(key, child)
        for key, parameter in network.named_parameters(recurse=False):
            holder.register_parameter(key, parameter)
        holder.add_module('links', nn.ModuleList(links))
        return holder

    def update_ema_members(self, accumulated: int = 1) -> None:
        """Move each ema member towards the member it averages; `MemberHook` calls it.

        Args:
            accumulated: Iterations of an optimizer step.
        """
        self._average_is_due = False
        self.members.update_averages(self.iteration() // accumulated)

    # ---------------------------------------------------------------- the training step

    def training_progress(self) -> float:
        """Return the share of the training done: `progress` if set, else the Runner's."""
        if self.progress is not None:
            return self.progress
        hub = MessageHub.get_current_instance()
        return hub.get_info('iter', 0) / max(hub.get_info('max_iters', 1), 1)

    @staticmethod
    def iteration() -> int:
        """Return the running Runner's iteration, from 0."""
        return MessageHub.get_current_instance().get_info('iter', 0)

    def forward(
        self,
        inputs: Tensor,
        data_samples: list[Any] | None = None,
        mode: str = 'tensor',
        unlabeled: dict[str, Any] | None = None,
    ) -> Any:
        """Run as every OpenMMLab model does.

        Args:
            inputs: Preprocessed images (N, C, H, W).
            data_samples: One per image.
            mode: `loss` gives named terms, `predict` the ensemble's data samples, `tensor` raw
                outputs by member.
            unlabeled: The preprocessed unlabeled batch, for `loss`.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples or [], unlabeled)
        if mode == 'predict':
            return self.predict(inputs, data_samples or [], ['ensemble'])['ensemble']
        if mode == 'tensor':
            return {
                name: network(self.members.inputs_of(name, inputs, data_samples), data_samples)
                for name, network in self.members.networks().items()
            }
        raise ValueError(f"mode: expected 'loss', 'predict' or 'tensor', got {mode!r}")

    def loss(
        self, inputs: Tensor, data_samples: list[Any], unlabeled: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Run every needed member once per batch and return all loss terms.

        Args:
            inputs: Preprocessed labeled images (N, C, H, W).
            data_samples: One per image.
            unlabeled: `inputs` and `data_samples` of the unlabeled batch, where links use one.

        Returns:
            `member/loss_cls`, ..., and the terms of each link (0 while it is not active).
        """
        step = Step(self, inputs, data_samples, unlabeled)
        terms: dict[str, Any] = {}
        for name in self.specs:
            terms.update(step.labeled(name))
        for name in step.needed['weak']:
            step.weak(name)
        for name in step.needed['strong']:
            step.strong(name)
        terms.update(step.linked(terms))
        self.expect_average()
        return terms

    def expect_average(self) -> None:
        """Note that ema members are due to be updated.

        Raises:
            ConfigError: If they have not been since the last step.
        """
        if self._average_is_due:
            raise ConfigError(
                "model.members: ema members are not updated: add custom_hooks=[dict(type='mmkd."
                "MemberHook')]"
            )
        self._average_is_due = self.training and bool(self.members.averaged)

    def train_step(self, data: dict[str, Any], optim_wrapper: Any) -> dict[str, Tensor]:
        """Take a training step: one backward pass for all members, or with `in_turns` one for each.

        Args:
            data: The loader's batch.
            optim_wrapper: A `MemberOptimWrapper`.

        Returns:
            What is logged.
        """
        if self.in_turns:
            return train_in_turns(self, data, optim_wrapper)
        return super().train_step(data, optim_wrapper)

    def strongly(self, inputs: Tensor) -> Changed:
        """Make the strong view of images (N, 3, H, W), in a random stream of its own."""
        mean, std = (x.to(inputs) for x in pixel_statistics(self.data_preprocessor))
        assert self.strong_view is not None, 'built where a link acts on unlabeled images'
        with self.view_stream(inputs.device), torch.no_grad():
            return self.strong_view(inputs, mean, std)

    def parse_losses(
        self, losses: dict[str, Any], names: Sequence[str] | None = None
    ) -> tuple[MemberLosses, dict[str, Tensor]]:
        """Sum each member's loss terms.

        Args:
            losses: The terms.
            names: Online members. Default: all.

        Returns:
            Loss by member, and all terms with `<member>/loss` and `loss` for the log.
        """
        terms = {key: mean_of(value) for key, value in losses.items()}
        sums = {name: sum_of(terms, name) for name in names or self.members.online}
        shared: dict[str, list[Tensor]] = {name: [] for name in sums}
        for link in self.links:
            if link.target in sums:
                keys = [key for batch in link.spec.batches for key in link.terms_on(batch)]
                shared[link.target] += [terms[key] for key in keys if key in terms]
        log = {'loss': torch.stack([v.detach() for v in sums.values()]).sum()}
        log.update({f'{name}/loss': value.detach() for name, value in sums.items()})
        log.update({key: value.detach() for key, value in terms.items()})
        return MemberLosses(sums, log, shared), log

    # ---------------------------------------------------------------- inference

    def predict(
        self, inputs: Tensor, data_samples: list[Any], names: Sequence[str]
    ) -> dict[str, list[Any]]:
        """Predict with the members (and the ensemble) in `names`, each network run once.

        Returns:
            By name, the data samples with that one's predictions.
        """
        fused = self.ensemble_members if 'ensemble' in names else []
        results: dict[str, list[Any]] = {}
        for name in self.specs:
            if name in names or name in fused:
                samples = clone_samples(data_samples)
                images = self.members.inputs_of(name, inputs, samples)
                found = self.task.predict(self.network(name), images, samples)
                elsewhere = self.specs[name].device is not None
                results[name] = [each.to(inputs.device) for each in found] if elsewhere else found
        if fused:
            results['ensemble'] = self.ensemble.fuse_batch([results[name] for name in fused])
        return {name: results[name] for name in names}

    @torch.no_grad()
    def predict_members(
        self, data: dict[str, Any], names: Sequence[str] | None = None
    ) -> dict[str, list[Any]]:
        """Preprocess a loader's batch once and predict with everything `evaluated` or `names`."""
        data = self.data_preprocessor(data, False)
        return self.predict(data['inputs'], data['data_samples'], names or self.evaluated)

    def read_taps(
        self, inputs: Tensor, data_samples: list[Any] | None, names: Sequence[str] | None = None
    ) -> dict[tuple[str, str], Any]:
        """Return what the links' taps read on preprocessed images, see `Links.read_taps`."""
        return self.links.read_taps(inputs, data_samples, names)


def _preset(sharing: Any, specs: Mapping[str, MemberSpec]) -> dict[str, Any]:
    """Return the preset's arguments, with the students filled in; empty without a preset."""
    if sharing is None:
        return {}
    preset = dict(type=sharing) if isinstance(sharing, str) else dict(sharing)
    if 'type' not in preset:
        raise ConfigError(
            f"model.sharing: expected a preset's name or a dict with 'type', got {preset}"
        )
    check_arguments(sharing_links, preset, 'model.sharing', given=('members', 'task'))
    choose(preset['type'], [*PRESETS, *UNLABELED_PRESETS], 'model.sharing.type')
    students = students_among({name: spec.training for name, spec in specs.items()}, preset)
    preset.setdefault('students', students)
    return preset


def _check_ends(links: Any, specs: Mapping[str, MemberSpec]) -> None:
    """Raise a ConfigError for a link of a member that is not there, before what follows of it."""
    for index, link in enumerate(links if isinstance(links, (list, tuple)) else ()):
        for side, others in (('source', ['ensemble']), ('target', [])):
            names = link.get(side) if isinstance(link, Mapping) else None
            for name in names if isinstance(names, (list, tuple)) else [names]:
                if isinstance(name, str) and name not in others:
                    choose(name, specs, f'model.links[{index}].{side}')
