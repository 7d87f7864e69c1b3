import copy
from contextlib import nullcontext
from zlib import crc32

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.model import BaseModel
from torch import nn

from mmkd.registry import MODELS
from mmkd.tasks import task_of
from mmkd.utils.checkpoint import load_member
from mmkd.utils.checks import build_checked, check_arguments, choose
from mmkd.utils.distributed import check_sync_bn
from mmkd.utils.errors import ConfigError
from mmkd.utils.samples import clone_samples

from .link import Link
from .member import Member
from .preprocessing import Renormalize, shared_preprocessor_config
from .sharing import sharing_links
from .tap import Tap, detach, requires_grad

# Sides of the image that finds the taps' shapes when the model is built: the first that all members accept.
PROBE_SIZES = (128, 224, 256, 384, 512)


class FrozenNetworks(dict):
    """Networks outside the distiller's parameters and state dict; copies of a distiller share them."""

    def __deepcopy__(self, memo):
        return self


class MemberLosses(dict):
    """Each trained member's loss (dict[str, Tensor]), with all named `terms`; stepped by `MemberOptimWrapper`."""

    def __init__(self, losses, terms):
        super().__init__(losses)
        self.terms = terms

    def __truediv__(self, factor):
        raise TypeError(
            "an OnlineDistiller's members have an optimiser each: set "
            "optim_wrapper.constructor='mmkd.MemberOptimWrapperConstructor' (configs/_base_/default_runtime.py does)"
        )


@MODELS.register_module()
class OnlineDistiller(BaseModel):
    """Several networks trained together online, sharing knowledge over links.

    One step: the batch is preprocessed once; each member runs forward once, its own `loss()` untouched, while its taps are
    recorded; each active link adds a term to its target's loss. Nothing flows into a link's source. For inference it is the
    ensemble of its students: `predict` returns the fused predictions as a plain model of the task does.

    Args:
        members (dict[str, dict]): Arguments of `Member` by name. `name=None` drops an inherited member.
        sharing (dict | str, optional): A preset and its options, see `sharing_links`. Default: no links.
        links (list[dict], optional): Further links, see `Link`; one with the same source, target and taps as one of the
            preset's replaces it.
        ensemble (dict, optional): `members` (default: all but the teacher) and the arguments of the task's ensemble.
        mixer (dict, optional): Config of what mixes the images of a training batch (`MetaMixer`). Default: none.
        task (str, optional): Name of the task; found from the networks by default.
        data_preprocessor (dict, optional): Shared preprocessing. Default: the first member's.

    Raises:
        ConfigError: At build, for whatever does not fit together: key, value and what is valid.
    """

    def __init__(
        self,
        members,
        sharing=None,
        links=None,
        ensemble=None,
        mixer=None,
        task=None,
        data_preprocessor=None,
    ):
        if not isinstance(members, dict) or not any(cfg is not None for cfg in members.values()):
            raise ConfigError(
                f'model.members: expected a dict of one or more members, got {members!r}'
            )
        plans = {
            name: Member.from_config(name, cfg) for name, cfg in members.items() if cfg is not None
        }
        for member in plans.values():
            if member.training == 'ema':
                online = [name for name, m in plans.items() if m.training == 'online']
                choose(member.of, online, f'{member.key}.of (an online member)')
        if not any(m.training == 'online' for m in plans.values()):
            raise ConfigError(
                "model.members: no member is trained: one at least must have training='online'"
            )
        super().__init__(
            shared_preprocessor_config(
                {name: m.config for name, m in plans.items() if m.config is not None},
                data_preprocessor,
            )
        )
        self.plans = plans
        self._build_networks()
        self.task = task_of({name: self.network(name) for name in plans}, task)
        check_sync_bn(self.members)
        self._build_links(sharing, links or [])
        self._build_ensemble(ensemble, sharing)
        self.mixer = (
            None
            if mixer is None
            else build_checked(
                MODELS,
                mixer,
                'model.mixer',
                task=self.task,
                networks={name: self.network(name) for name in plans},
                preprocessor=self.data_preprocessor,
            )
        )
        self.progress = None
        self._ema_is_due = False

    # ---------------------------------------------------------------- building

    def _build_networks(self):
        self.members = nn.ModuleDict()
        self.frozen = FrozenNetworks()
        base_seed = torch.initial_seed() % 2**31
        for member in self.plans.values():
            if member.training == 'ema':
                continue
            # By name and not by place: a dumped config lists members in another order.
            network = member.build(base_seed + crc32(member.name.encode()) % 10**6)
            if member.training == 'frozen':
                load_member(
                    network, member.checkpoint, member.name, f'{member.key}.checkpoint', strict=True
                )
                self.frozen[member.name] = network.eval().requires_grad_(False)
            else:
                self.members[member.name] = network
        for member in self.plans.values():
            if member.training == 'ema':
                self.members[member.name] = (
                    copy.deepcopy(self.members[member.of]).eval().requires_grad_(False)
                )
        self.renormalize = {}
        for name in self.plans:
            conversion = Renormalize(self.data_preprocessor, self.network(name).data_preprocessor)
            if not conversion.is_identity:
                self.renormalize[name] = conversion

    def _build_links(self, sharing, links):
        configs = {}
        if sharing is not None:
            sharing = dict(type=sharing) if isinstance(sharing, str) else dict(sharing)
            if 'type' not in sharing:
                raise ConfigError(
                    f"model.sharing: expected a preset's name or a dict with 'type', got {sharing}"
                )
            check_arguments(sharing_links, sharing, 'model.sharing', given=('members', 'task'))
            teacher = sharing.get('teacher', 'teacher')
            sharing.setdefault('students', self._students(teacher))
            expanded = sharing_links(list(self.plans), task=self.task, **sharing)
            configs = {
                f'model.sharing ({sharing["type"]})[{i}]': cfg for i, cfg in enumerate(expanded)
            }
        if not isinstance(links, (list, tuple)):
            raise ConfigError(f'model.links: expected a list of dicts, got {links!r}')
        own = [Link.from_config(cfg, f'model.links[{i}]') for i, cfg in enumerate(links)]
        replaced = {link.place for link in own}
        planned = [Link.from_config(cfg, key) for key, cfg in configs.items()]
        planned = [link for link in planned if link.place not in replaced] + own
        self.taps = {}
        for link in planned:
            for side in ('source', 'target'):
                name = choose(getattr(link, side), self.plans, f'{link.key}.{side}')
                text = getattr(link, f'{side}_tap')
                if (name, text) not in self.taps:
                    self.taps[name, text] = Tap(
                        name, text, self.network(name), self.task, f'{link.key}.{side}_tap'
                    )
            if self.plans[link.target].training != 'online':
                raise ConfigError(
                    f'{link.key}.target: {link.target!r} is {self.plans[link.target].training} and learns nothing; '
                    'targets are online members'
                )
            if not link.detach and self.plans[link.source].training != 'online':
                raise ConfigError(
                    f'{link.key}.detach: False has no effect on {link.source!r}, which is not trained'
                )
        values = self._probe()
        self.links, self.link_modules = [], nn.ModuleDict()
        for index, link in enumerate(planned):
            module = link.build(
                self.task,
                values[link.source, link.source_tap],
                values[link.target, link.target_tap],
                self.plans[link.target].seed + 1000 + index,
            )
            if self.plans[link.source].training != 'frozen':
                for connector in module.source_connectors.modules():
                    if getattr(connector, 'needs_frozen_source', False):
                        raise ConfigError(
                            f'{link.key}.source_connector: {type(connector).__name__} is trained before the training, '
                            f'on a frozen source, but {link.source!r} is {self.plans[link.source].training}: set '
                            'joint=True'
                        )
            self.link_modules[f'{link.target}_from_{link.source}_{index}'] = module
            self.links.append((link, module))
        terms = [term for link, _ in self.links for term in link.terms]
        for term in terms:
            if terms.count(term) > 1:
                raise ConfigError(
                    f'model.links: two links have the term {term!r}; give one of them a `name`'
                )

    def _probe(self):
        """Read all taps on an empty image, to find their shapes."""
        with torch.random.fork_rng(devices=[]):
            for size in PROBE_SIZES:
                try:
                    return self.read_taps(torch.zeros(1, 3, size, size), None)
                except (AssertionError, RuntimeError, IndexError) as error:
                    reason = (
                        error  # window attention and fixed position embeddings need their own sizes
                    )
        raise ConfigError(
            f'model.members: no image size of {PROBE_SIZES} pixels serves all members that links tap: {reason}'
        ) from reason

    @torch.no_grad()
    def read_taps(self, inputs, data_samples, names=None):
        """Run each tapped member (those in `names`, if given) once in eval mode, without losses.

        Args:
            inputs (Tensor): Preprocessed images (N, C, H, W).
            data_samples (list, optional): One a image.

        Returns:
            dict[tuple[str, str], Any]: By (member, tap) what the links' taps read.
        """
        values = {}
        for name in dict.fromkeys(name for name, _ in self.taps if names is None or name in names):
            network = self.network(name)
            mode = network.training
            network.eval()
            images = self._inputs_of(name, inputs, data_samples)
            values.update(
                self._recorded(
                    name,
                    [text for n, text in self.taps if n == name],
                    lambda: self._run_for_taps(name, images, data_samples),
                )
            )
            network.train(mode)
        return values

    def _students(self, teacher):
        """list[str]: The online members but the teacher."""
        return [
            name
            for name, member in self.plans.items()
            if member.training == 'online' and name != teacher
        ]

    def _build_ensemble(self, ensemble, sharing):
        cfg = dict(ensemble or {})
        teacher = sharing.get('teacher', 'teacher') if isinstance(sharing, dict) else 'teacher'
        self.ensemble_members = cfg.pop('members', self._students(teacher) or list(self.plans))
        if not self.ensemble_members:
            raise ConfigError('model.ensemble.members: expected at least one member')
        for name in self.ensemble_members:
            choose(name, self.plans, 'model.ensemble.members')
        self.ensemble = self.task.build_ensemble(self.ensemble_members, **cfg)

    def init_weights(self):
        """Initialise each online member in its own random stream, then load the checkpoints that members start from."""
        for member in self.plans.values():
            if member.training != 'online':
                continue
            network = self.members[member.name]
            with member.stream():
                network.init_weights()
            if member.checkpoint is not None:
                load_member(
                    network,
                    member.checkpoint,
                    member.name,
                    f'{member.key}.checkpoint',
                    strict=False,
                )
        for member in self.plans.values():
            if member.training == 'ema':
                self.members[member.name].load_state_dict(self.members[member.of].state_dict())

    # ---------------------------------------------------------------- members

    def network(self, name):
        """Return the network of the member `name`."""
        return self.frozen[name] if name in self.frozen else self.members[name]

    @property
    def evaluated(self):
        """list[str]: What one pass of evaluation measures: members outside the ensemble, those in it, then the ensemble."""
        return [
            *(name for name in self.plans if name not in self.ensemble_members),
            *self.ensemble_members,
            'ensemble',
        ]

    def trained_module(self, name):
        """Return what the optimiser of the online member `name` trains: its network and its links' modules.

        Parameter names are the network's own, so that `paramwise_cfg` applies as if it were alone.
        """
        network = self.members[name]
        modules = [
            module
            for link, module in self.links
            if link.target == name and any(True for _ in module.parameters())
        ]
        if not modules:
            return network
        holder = nn.Module()
        holder._parameters, holder._modules = network._parameters, dict(network._modules)
        holder.links = nn.ModuleList(modules)
        return holder

    def train(self, mode=True):
        """Set training mode; frozen and ema members stay in eval mode."""
        super().train(mode)
        for name, member in self.plans.items():
            if member.training == 'ema':
                self.members[name].eval()
        return self

    def _apply(self, fn, recurse=True):
        for network in self.frozen.values():
            network._apply(fn)
        return super()._apply(fn, recurse)

    @torch.no_grad()
    def update_ema_members(self):
        """Move each ema member towards the member it averages; buffers are copied. `MemberHook` calls it each iteration."""
        self._ema_is_due = False
        for name, member in self.plans.items():
            if member.training == 'ema':
                own, other = self.members[name], self.members[member.of]
                torch._foreach_lerp_(
                    list(own.parameters()), list(other.parameters()), member.momentum
                )
                for buffer, source in zip(own.buffers(), other.buffers()):
                    buffer.copy_(source)

    # ---------------------------------------------------------------- the training step

    def training_progress(self):
        """float: Share of the training done, in [0, 1]: `progress` if set, else from the running Runner."""
        if self.progress is not None:
            return self.progress
        hub = MessageHub.get_current_instance()
        return hub.get_info('iter', 0) / max(hub.get_info('max_iters', 1), 1)

    @staticmethod
    def iteration():
        """int: The running Runner's iteration, from 0."""
        return MessageHub.get_current_instance().get_info('iter', 0)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        """As every OpenMMLab model: `loss` gives named terms, `predict` the ensemble's data samples, `tensor` raw outputs
        by member.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        if mode == 'predict':
            return self.predict(inputs, data_samples, ['ensemble'])['ensemble']
        if mode == 'tensor':
            return {
                name: self.network(name)(
                    self._inputs_of(name, inputs, data_samples), data_samples, mode='tensor'
                )
                for name in self.plans
            }
        raise ConfigError(f"mode: expected 'loss', 'predict' or 'tensor', got {mode!r}")

    def loss(self, inputs, data_samples):
        """Run every needed member once and return all loss terms.

        Args:
            inputs (Tensor): Preprocessed images (N, C, H, W).
            data_samples (list): One a image.

        Returns:
            dict[str, Tensor]: `member/loss_cls`, ..., and a term for each link (0 while its weight is 0).
        """
        progress = self.training_progress()
        weights = [link.weight_at(progress) for link, _ in self.links]
        active = [link for (link, _), weight in zip(self.links, weights) if weight]
        sources = {link.source for link in active}
        wanted = {(link.source, link.source_tap) for link in active} | {
            (link.target, link.target_tap) for link in active
        }
        terms, values = {}, {}
        mix = self.mixer(inputs, data_samples) if self.mixer is not None and self.training else None
        if mix is not None:
            inputs, data_samples = mix.inputs, mix.data_samples
        for name, member in self.plans.items():
            if member.training != 'online' and name not in sources:
                continue
            texts = {text for n, text in wanted if n == name}
            samples = clone_samples(data_samples)
            images = self._inputs_of(name, inputs, samples)
            mixing = nullcontext() if mix is None else mix.applied_to(name, self.network(name))
            with (
                mixing,
                member.stream(inputs.device)
                if member.stream
                else torch.random.fork_rng(enabled=False),
            ):
                if member.training == 'online':
                    values.update(
                        self._recorded(
                            name,
                            texts,
                            lambda: terms.update(
                                _named(name, self.members[name](images, samples, mode='loss'))
                            ),
                        )
                    )
                else:
                    with torch.no_grad():
                        values.update(
                            self._recorded(
                                name, texts, lambda: self._run_for_taps(name, images, samples)
                            )
                        )
        mask = (
            self.task.valid_mask(data_samples) if any(link.takes_mask for link in active) else None
        )
        if mix is not None and mask is not None:
            mask = mix.valid_mask(mask)
        detached = {}
        for (link, module), weight in zip(self.links, weights):
            if not weight:
                terms.update(_silent(link, module, inputs))
                continue
            place, target = (link.source, link.source_tap), values[link.target, link.target_tap]
            if torch.is_grad_enabled() and not requires_grad(target):
                raise ConfigError(
                    f'{link.key}.target_tap: {link.target_tap!r} of {link.target!r} has no gradient, so the link '
                    'teaches nothing: its layers are frozen, or it lies inside a reentrant activation checkpoint (with_cp, '
                    'activation_checkpointing); tap the checkpointed module itself or a later one'
                )
            source = values[place]
            if link.detach:
                source = detached.setdefault(place, detach(source))
            terms.update(link.compute(module, target, source, mask, weight))
        self._leave_out_broken(active, terms, inputs)
        if self._ema_is_due:
            raise RuntimeError(
                "model.members: ema members are not updated: add custom_hooks=[dict(type='mmkd.MemberHook')]"
            )
        self._ema_is_due = self.training and any(m.training == 'ema' for m in self.plans.values())
        return terms

    def _leave_out_broken(self, active, terms, inputs):
        """Silence the links whose terms are not finite: their targets still learn from labels and other links."""
        if (
            not active
            or torch.isfinite(
                torch.stack([terms[t].detach() for link in active for t in link.terms])
            ).all()
        ):
            return
        for link, module in self.links:
            broken = (
                [term for term in link.terms if not torch.isfinite(terms[term])]
                if link in active
                else []
            )
            if broken:
                said = ', '.join(f'{term}: {terms[term].item()}' for term in broken)
                print_log(
                    f'{said} at iteration {self.iteration() + 1}; the link is left out of this step',
                    logger='current',
                    level=30,
                )
                terms.update(_silent(link, module, inputs))

    def _recorded(self, name, texts, run):
        """Call `run` and return the values {(name, text): value} of the member's taps `texts`."""
        taps = [self.taps[name, text] for text in texts]
        for tap in taps:
            tap.recorder.enabled = True
        try:
            run()
            return {(name, tap.text): tap.read() for tap in taps}
        finally:
            for tap in taps:
                tap.recorder.enabled = False
                tap.recorder.pop()

    def _run_for_taps(self, name, inputs, data_samples):
        paths = [tap.path for (member, _), tap in self.taps.items() if member == name]
        self.task.run_for_taps(self.network(name), inputs, data_samples, paths)

    def _inputs_of(self, name, inputs, data_samples):
        return self.renormalize[name](inputs, data_samples) if name in self.renormalize else inputs

    def parse_losses(self, losses):
        """Sum each member's loss terms.

        Returns:
            tuple[MemberLosses, dict]: Loss by member, and all terms with `<member>/loss` and `loss` for the log.
        """
        terms = {}
        for key, value in losses.items():
            terms[key] = (
                sum(v.mean() for v in value) if isinstance(value, (list, tuple)) else value.mean()
            )
        sums = {}
        for name, member in self.plans.items():
            if member.training == 'online':
                own = [
                    v
                    for key, v in terms.items()
                    if key.startswith(f'{name}/') and 'loss' in key[len(name) :]
                ]
                sums[name] = sum(own)
        log = {'loss': sum(v.detach() for v in sums.values())}
        log.update({f'{name}/loss': value.detach() for name, value in sums.items()})
        log.update({key: value.detach() for key, value in terms.items()})
        return MemberLosses(sums, log), log

    # ---------------------------------------------------------------- inference

    def predict(self, inputs, data_samples, names):
        """Predict with the members (and the ensemble) in `names`, each network run once.

        Returns:
            dict[str, list]: By name, the data samples with that one's predictions.
        """
        needed = [
            n
            for n in self.plans
            if n in names or ('ensemble' in names and n in self.ensemble_members)
        ]
        results = {}
        for name in needed:
            samples = [sample.clone() for sample in data_samples]
            results[name] = self.network(name)(
                self._inputs_of(name, inputs, samples), samples, mode='predict'
            )
        if 'ensemble' in names:
            results['ensemble'] = [
                self.ensemble.fuse_samples(list(samples))
                for samples in zip(*(results[n] for n in self.ensemble_members))
            ]
        return {name: results[name] for name in names}

    @torch.no_grad()
    def predict_members(self, data, names=None):
        """Preprocess a loader's batch once and predict with every member and the ensemble (or those in `names`)."""
        data = self.data_preprocessor(data, False)
        return self.predict(data['inputs'], data['data_samples'], names or self.evaluated)


def _silent(link, module, inputs):
    """A link's terms of 0; its modules keep a (zero) gradient, so that DDP sees the same parameters in every step."""
    return dict.fromkeys(
        link.terms, sum((p.sum() * 0 for p in module.parameters()), inputs.new_zeros(()))
    )


def _named(name, losses):
    """Prefix a network's loss terms by the member's name; a bare `loss` (classifiers') would be read as the member's sum."""
    return {
        f'{name}/{"loss_task" if key == "loss" else key}': value for key, value in losses.items()
    }
