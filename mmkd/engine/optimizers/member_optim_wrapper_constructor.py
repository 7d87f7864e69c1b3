import copy
import inspect
from collections.abc import Mapping
from difflib import get_close_matches
from typing import Any

import torch
from mmengine.device import is_cuda_available
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS as MMENGINE_CONSTRUCTORS
from mmengine.registry import OPTIMIZERS
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from mmkd.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmkd.utils.checks import LARGEST, check_arguments, check_integer, check_number, choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.optim_config import member_optim_config

from .distillation_oriented_sgd import DistillationOrientedSGD
from .member_optim_wrapper import MemberOptimWrapper

WRAPPER = 'MMDistributedDataParallel'
DEFAULT_CONSTRUCTOR = 'DefaultOptimWrapperConstructor'
# What mmengine's default constructor reads; it passes over anything else in silence.
PARAMWISE_OPTIONS = (
    'custom_keys',
    'bias_lr_mult',
    'bias_decay_mult',
    'norm_decay_mult',
    'flat_decay_mult',
    'dwconv_decay_mult',
    'dcn_offset_lr_mult',
    'bypass_duplicate',
)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MemberOptimWrapperConstructor:
    """Build each online member's own optimizer wrapper from one `optim_wrapper` config.

    `optim_wrapper.members` (dict, optional) overrides it by member:
    `members=dict(teacher=dict(optimizer=dict(lr=1e-3)))`; an `optimizer` with another `type`
    replaces the shared one. `optim_wrapper.max_skips`: see `MemberOptimWrapper`.
    `optim_wrapper.member_constructor` (shared or by member) is the constructor that a plain config
    of the member has, for layer-wise rates (`LearningRateDecayOptimizerConstructor`).
    `paramwise_cfg` (shared or by member) sees a member's own parameter names. With
    `AmpOptimWrapper` on a machine without GPU only `dtype='bfloat16'` is possible.

    Args:
        optim_wrapper_cfg: The config.
        paramwise_cfg: Options by parameter.

    Raises:
        ConfigError: For options that are unknown, or cannot be meant.
    """

    def __init__(
        self, optim_wrapper_cfg: dict[str, Any], paramwise_cfg: dict[str, Any] | None = None
    ) -> None:
        self.cfg = copy.deepcopy(dict(optim_wrapper_cfg))
        self.overrides = self.cfg.pop('members', None) or {}
        self.options = {'max_skips': self.cfg.pop('max_skips')} if 'max_skips' in self.cfg else {}
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> MemberOptimWrapper:
        """Build the `MemberOptimWrapper` of an `OnlineDistiller` (or of its DDP wrapper)."""
        self._check_engine(model)
        distiller: Any = model.module if is_model_wrapper(model) else model
        if not hasattr(distiller, 'trained_module'):
            raise ConfigError(
                'optim_wrapper.constructor: MemberOptimWrapperConstructor is for OnlineDistiller, '
                f'got {type(distiller).__name__}'
            )
        online = [name for name, spec in distiller.specs.items() if spec.training == 'online']
        if not isinstance(self.overrides, dict):
            raise ConfigError(
                f'optim_wrapper.members: expected dicts by member, got {self.overrides!r}'
            )
        for name, changes in self.overrides.items():
            choose(name, online, 'optim_wrapper.members')
            if not isinstance(changes, dict):
                raise ConfigError(
                    f'optim_wrapper.members.{name}: expected a dict of what differs, got '
                    f'{changes!r}'
                )
        if 'max_skips' in self.options:
            check_integer(self.options['max_skips'], 'optim_wrapper.max_skips')
        wrappers, modules, kinds = {}, {}, {}
        custom: dict[str, bool] = {}  # by custom key, whether it is part of a parameter's name
        for name in online:
            key = f'optim_wrapper.members.{name}' if name in self.overrides else 'optim_wrapper'
            cfg, paramwise, constructor = self._config_of(name)
            kinds[name] = self._amp_dtype(cfg, key)
            self._check(cfg, key)
            modules[name] = distiller.trained_module(name)
            wrappers[name] = _built(
                modules[name], distiller.network(name), cfg, paramwise, constructor, key
            )
            wrappers[name].grad_name = f'{name}/grad_norm'
            if constructor == DEFAULT_CONSTRUCTOR:
                names = [parameter for parameter, _ in modules[name].named_parameters()]
                for part in (paramwise or {}).get('custom_keys') or ():
                    custom[part] = custom.get(part, False) or any(part in one for one in names)
        _check_custom_keys([part for part, found in custom.items() if not found], modules)
        self._check_same(
            'accumulative_counts', {n: w._accumulative_counts for n, w in wrappers.items()}
        )
        self._check_same('type and dtype (one autocast is for all)', kinds)
        if any(hasattr(wrapper, 'loss_scaler') for wrapper in wrappers.values()):
            for link in distiller.links:
                if not link.spec.detach:
                    raise ConfigError(
                        f'{link.key}.detach: False cannot be combined with loss scaling, which '
                        "each member has of its own; use AMP with dtype='bfloat16' on CPU, or "
                        'detach=True'
                    )
        dtype = kinds[online[0]]
        return MemberOptimWrapper(
            dtype if isinstance(dtype, torch.dtype) else None,
            modules=modules,
            **self.options,
            **wrappers,
        )

    def _check_engine(self, model: nn.Module) -> None:
        wrapped = is_model_wrapper(model)
        kind = type(model).__name__ if wrapped else str(self.cfg.get('type', 'OptimWrapper'))
        if (wrapped and not isinstance(model, DistributedDataParallel)) or kind.startswith(
            ('DeepSpeed', 'ColossalAI')
        ):
            raise ConfigError(
                f'{kind} cannot train an OnlineDistiller, whose members have an optimizer each: it '
                'runs on one device or in MMDistributedDataParallel, not under FSDP, DeepSpeed or '
                'ColossalAI'
            )
        if wrapped and getattr(model.module, 'in_turns', False) and kind == WRAPPER:
            raise ConfigError(
                f'model_wrapper_cfg.type: {kind} takes one backward pass a step; for '
                "model.in_turns it must be 'mmkd.MemberDistributedDataParallel'"
            )

    def _config_of(self, name: str) -> tuple[dict[str, Any], dict[str, Any] | None, str]:
        """Return a member's wrapper config, its parameter-wise options and its constructor."""
        shared = dict(self.cfg, paramwise_cfg=self.paramwise_cfg)
        cfg = member_optim_config(shared, self.overrides.get(name))
        paramwise = cfg.pop('paramwise_cfg')
        return cfg, paramwise, cfg.pop('member_constructor', DEFAULT_CONSTRUCTOR)

    @staticmethod
    def _check(cfg: dict[str, Any], key: str) -> None:
        """Check an optimizer and its gradient clip."""
        optimizer, clip = cfg.get('optimizer'), cfg.get('clip_grad')
        if not isinstance(optimizer, dict) or 'type' not in optimizer:
            raise ConfigError(f"{key}.optimizer: expected a config with 'type', got {optimizer!r}")
        arguments = {k: v for k, v in optimizer.items() if k not in ('type', '_scope_')}
        kind = optimizer['type']
        cls = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        if cls is None:
            choose(kind, OPTIMIZERS.module_dict, f'{key}.optimizer.type')
        check_arguments(cls, arguments, f'{key}.optimizer', given=('params',))
        for name, value in arguments.items():
            if name in ('lr', 'weight_decay'):
                check_number(value, f'{key}.optimizer.{name}')
            elif isinstance(value, float):
                check_number(value, f'{key}.optimizer.{name}', -LARGEST)
        check_integer(cfg.get('accumulative_counts', 1), f'{key}.accumulative_counts')
        if clip is None:
            return
        if not isinstance(clip, dict):
            raise ConfigError(f"{key}.clip_grad: expected a dict with 'max_norm', got {clip!r}")
        limit = 'clip_value' if clip.get('type') == 'value' else 'max_norm'
        if clip.get(limit) != float('inf'):  # no clipping, but the norm is logged
            check_number(clip.get(limit), f'{key}.clip_grad.{limit}', most=float('inf'))
        if clip.get('norm_type') != float('inf'):
            check_number(clip.get('norm_type', 2), f'{key}.clip_grad.norm_type', 1)
        if clip.get('type') == 'value' and cls is DistillationOrientedSGD:
            raise ConfigError(
                f"{key}.clip_grad.type: 'value' cannot clip both parts of a gradient alike "
                "(DistillationOrientedSGD); use 'norm'"
            )
        if clip[limit] == 0:
            raise ConfigError(f'{key}.clip_grad.{limit}: 0 would leave no gradient')

    @staticmethod
    def _check_same(option: str, values: dict[str, Any]) -> None:
        if len(set(values.values())) > 1:
            raise ConfigError(
                f'optim_wrapper.members: {option} must be the same for all, got {values}'
            )

    @staticmethod
    def _amp_dtype(cfg: dict[str, Any], key: str) -> torch.dtype | str | None:
        """Return what the member computes in; None without AMP.

        mmengine's AmpOptimWrapper refuses machines without GPU; bf16 needs no loss scaling, so
        there the config becomes one without it, and the type is returned for the autocast.
        """
        if cfg.get('type', 'OptimWrapper') != 'AmpOptimWrapper':
            return None
        if is_cuda_available():
            return f'AMP in {cfg.get("dtype")}'
        if cfg.pop('dtype', None) not in ('bfloat16', torch.bfloat16):
            raise ConfigError(f"{key}.dtype: without a GPU, AMP needs dtype='bfloat16'")
        cfg.pop('loss_scale', None)
        cfg['type'] = 'OptimWrapper'
        return torch.bfloat16


def _built(
    module: nn.Module,
    network: nn.Module,
    cfg: dict[str, Any],
    paramwise: dict[str, Any] | None,
    constructor: str,
    key: str,
) -> OptimWrapper:
    """Build the wrapper of a member's network and of its links' parameters."""
    if constructor != DEFAULT_CONSTRUCTOR:
        cls = MMENGINE_CONSTRUCTORS.get(constructor)
        if cls is None:
            choose(constructor, MMENGINE_CONSTRUCTORS.module_dict, f'{key}.member_constructor')
        # It may ask the network for its layers: the links' parameters are a group of their own.
        wrapper = _build(cls, cfg, paramwise, network, f'{key}.member_constructor')
        own = {id(parameter) for parameter in network.parameters()}
        others = [p for p in module.parameters() if p.requires_grad and id(p) not in own]
        if others:
            wrapper.optimizer.add_param_group(dict(params=others))
        return wrapper
    _check_paramwise(paramwise or {}, cfg['optimizer'], f'{key}.paramwise_cfg')
    return _build(DefaultOptimWrapperConstructor, cfg, paramwise, module, key)


def _check_paramwise(paramwise: dict[str, Any], optimizer: dict[str, Any], key: str) -> None:
    kind = optimizer['type']
    cls = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    multipliers = ('lr_mult', 'decay_mult')
    for option, value in paramwise.items():
        choose(option, PARAMWISE_OPTIONS, key)
        if option.endswith('_mult') and value is not None:
            check_number(value, f'{key}.{option}')
    custom = paramwise.get('custom_keys') or {}
    if not isinstance(custom, dict):
        raise ConfigError(f'{key}.custom_keys: expected a dict, got {custom!r}')
    for name, options in custom.items():
        place = f'{key}.custom_keys[{name!r}]'
        if not isinstance(options, dict):
            raise ConfigError(f'{place}: expected a dict, got {options!r}')
        for option, value in options.items():
            # The optimizer's own options may differ by parameter, too.
            choose(option, (*multipliers, *inspect.signature(cls).parameters), place)
            if option in multipliers:
                check_number(value, f'{place}.{option}')


def _check_custom_keys(unused: list[str], modules: Mapping[str, nn.Module]) -> None:
    """Refuse a custom key that is nearly a network's part; name the others that do nothing.

    Recipes shared by several networks may have keys that one of them alone has.
    """
    parts = {part for module in modules.values() for part, _ in module.named_children()}
    for key in unused:
        place = f'optim_wrapper.paramwise_cfg.custom_keys[{key!r}]'
        nearest = get_close_matches(key.split('.')[0], parts, n=1, cutoff=0.8)
        if nearest and nearest[0] != key.split('.')[0]:
            raise ConfigError(
                f'{place}: part of no parameter name of any member; did you mean {nearest[0]!r}?'
            )
        print_log(f'{place}: part of no parameter name of any member', 'current', level=30)


def _build(
    cls: type, cfg: dict[str, Any], paramwise: dict[str, Any] | None, module: nn.Module, key: str
) -> OptimWrapper:
    try:
        return cls(cfg, paramwise)(module)
    except (TypeError, ValueError, NotImplementedError) as error:
        raise ConfigError(f'{key}: {dict(cfg)}: {error}') from error
