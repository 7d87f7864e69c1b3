import copy
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS as MMENGINE_HOOKS
from mmengine.runner import Runner
from torch import nn

from mmkd.registry import HOOKS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.model import distiller_of

# Hooks of the toolboxes that reach into the network, and what they need of it.
NETWORK_HOOKS = {
    'YOLOXModeSwitchHook': 'bbox_head.use_l1',
    'SetEpochInfoHook': 'set_epoch',
    'SetAdaptiveMarginsHook': 'head.set_margins',
    'PrepareProtoBeforeValLoopHook': 'prepare_prototype',
    'WarmupParamHook': None,  # what its own `module_name` says
}
# Hooks for models of their own kind, and what to use in their place.
REFUSED_HOOKS = {
    'MeanTeacherHook': "a member with training='ema'",
    'DenseCLHook': None,
    'SimSiamHook': None,
    'SwAVHook': None,
}


class MemberRunner:
    """A Runner whose model is one member's network; in all else it is the Runner.

    Args:
        runner: The Runner.
        network: The member's network.
    """

    def __init__(self, runner: Runner, network: nn.Module) -> None:
        self.runner, self.model = runner, network

    def __getattr__(self, name: str) -> Any:
        return getattr(self.runner, name)


@HOOKS.register_module()
class EachMemberHook(Hook):
    """Runs a hook that reaches into `runner.model` once for each trained member's network.

    A plain config's hooks that are known to do so (MMDetection's `YOLOXModeSwitchHook`, ...) are
    wrapped without being asked; for a hook of one's own write
    `dict(type='mmkd.EachMemberHook', hook=dict(type='MyHook'), needs='bbox_head.my_switch')`.

    Args:
        hook: The hook's config. Each member gets a copy of the hook.
        needs: Attribute path that a network must have for the hook to act on it. Default: none.
        members: Names of the members that it acts on. Default: every trained member that has what
            the hook needs.

    Raises:
        ConfigError: If it would act on no member, or on one that lacks what the hook needs.
    """

    def __init__(
        self,
        hook: dict[str, Any] | Hook,
        needs: str | None = None,
        members: Sequence[str] | None = None,
    ) -> None:
        self.hook = hook if isinstance(hook, Hook) else MMENGINE_HOOKS.build(dict(hook))
        self.priority = self.hook.priority
        self.needs, self.members = needs, members
        self.copies: dict[str, Hook] = {}

    def before_run(self, runner: Runner) -> None:
        """Find the members, and begin."""
        model = distiller_of(runner.model)
        online = [name for name, spec in model.specs.items() if spec.training == 'online']
        name = type(self.hook).__name__
        for member in self.members or ():
            choose(member, online, f'custom_hooks ({name}).members')
            self._check(model.network(member), f'model.members.{member}')
        found = list(self.members or (n for n in online if self._fits(model.network(n))))
        if not found:
            raise ConfigError(
                f'custom_hooks: {name} acts on no member: none of {online} has {self.needs!r}'
            )
        self.copies = {member: copy.deepcopy(self.hook) for member in found}
        self._call('before_run', runner)

    def _fits(self, network: nn.Module) -> bool:
        try:
            if self.needs is not None:
                attrgetter(self.needs)(network)
            elif hasattr(self.hook, 'module_getter'):
                self.hook.module_getter(network)
        except AttributeError:
            return False
        return True

    def _check(self, network: nn.Module, key: str) -> None:
        if not self._fits(network):
            raise ConfigError(f'{key}: {type(self.hook).__name__} needs {self.needs!r} of it')

    def _call(self, stage: str, runner: Runner, *args: Any, **kwargs: Any) -> None:
        model = distiller_of(runner.model)
        for name, hook in self.copies.items():
            getattr(hook, stage)(MemberRunner(runner, model.network(name)), *args, **kwargs)


def _stage(name: str) -> Callable[..., None]:
    def call(self: EachMemberHook, runner: Runner, *args: Any, **kwargs: Any) -> None:
        self._call(name, runner, *args, **kwargs)

    return call


for _name in Hook.stages:
    if _name != 'before_run':
        setattr(EachMemberHook, _name, _stage(_name))


def adapt_hooks(runner: Runner) -> None:
    """Wrap the Runner's hooks that reach into a network, so that they act on each member.

    Raises:
        ConfigError: For a hook that cannot act on members.
    """
    for index, hook in enumerate(runner.hooks):
        names = [cls.__name__ for cls in type(hook).__mro__]
        for name in names:
            if name in REFUSED_HOOKS:
                instead = REFUSED_HOOKS[name]
                raise ConfigError(
                    f'custom_hooks: {name} is for a model of its own kind and cannot act on the '
                    'members of an OnlineDistiller' + (f'; use {instead}' if instead else '')
                )
        if any('loss' in recipe for recipe in getattr(hook, 'schedule', {}).values()):
            raise ConfigError(f"custom_hooks: {names[0]} cannot switch the members' loss modules")
        known = next((name for name in names if name in NETWORK_HOOKS), None)
        if known is not None:
            wrapped = EachMemberHook(hook, NETWORK_HOOKS[known])
            wrapped.before_run(runner)
            runner.hooks[index] = wrapped
