import copy

import torch
from mmengine.device import is_cuda_available
from mmengine.model import is_model_wrapper
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIMIZERS
from torch.nn.parallel import DistributedDataParallel

from mmkd.registry import OPTIM_WRAPPER_CONSTRUCTORS
from mmkd.utils.checks import check_arguments, choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.optim_config import member_optim_config

from .member_optim_wrapper import MemberOptimWrapper


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class MemberOptimWrapperConstructor:
    """Build each online member's own optimiser wrapper from one `optim_wrapper` config.

    `optim_wrapper.members` (dict, optional) overrides it by member: `members=dict(teacher=dict(optimizer=dict(lr=1e-3)))`;
    an `optimizer` with another `type` replaces the shared one. `optim_wrapper.max_skips`: see `MemberOptimWrapper`.
    `paramwise_cfg` (shared or by member) sees a member's own parameter names. With `AmpOptimWrapper` on a machine without GPU
    only `dtype='bfloat16'` is possible.

    Args:
        optim_wrapper_cfg (dict): The config.
        paramwise_cfg (dict, optional): Options by parameter.
    """

    def __init__(self, optim_wrapper_cfg, paramwise_cfg=None):
        self.cfg = copy.deepcopy(dict(optim_wrapper_cfg))
        self.overrides = self.cfg.pop('members', None) or {}
        self.options = {'max_skips': self.cfg.pop('max_skips')} if 'max_skips' in self.cfg else {}
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model):
        """Build the `MemberOptimWrapper` of an `OnlineDistiller` (or of its DDP wrapper)."""
        kind = (
            type(model).__name__
            if is_model_wrapper(model)
            else str(self.cfg.get('type', 'OptimWrapper'))
        )
        if (
            is_model_wrapper(model) and not isinstance(model, DistributedDataParallel)
        ) or kind.startswith(('DeepSpeed', 'ColossalAI')):
            raise ConfigError(
                f'{kind} cannot train an OnlineDistiller, whose members have an optimiser each: it runs on one '
                'device or in MMDistributedDataParallel, not under FSDP, DeepSpeed or ColossalAI'
            )
        distiller = model.module if is_model_wrapper(model) else model
        if not hasattr(distiller, 'trained_module'):
            raise TypeError(
                f'optim_wrapper.constructor: MemberOptimWrapperConstructor is for OnlineDistiller, got '
                f'{type(distiller).__name__}'
            )
        online = [name for name, member in distiller.specs.items() if member.training == 'online']
        for name in self.overrides:
            choose(name, online, 'optim_wrapper.members')
        wrappers, dtypes = {}, set()
        for name in online:
            cfg, paramwise = self._config_of(name)
            dtypes.add(self._cpu_dtype(cfg))
            self._check_optimizer(cfg.get('optimizer'))
            try:
                wrappers[name] = DefaultOptimWrapperConstructor(cfg, paramwise)(
                    distiller.trained_module(name)
                )
            except (TypeError, ValueError) as error:
                raise ConfigError(f'optim_wrapper (of {name}): {dict(cfg)}: {error}') from error
            wrappers[name].grad_name = f'{name}/grad_norm'
        counts = {name: wrapper._accumulative_counts for name, wrapper in wrappers.items()}
        if len(set(counts.values())) > 1:
            raise ConfigError(
                f'optim_wrapper.members: accumulative_counts must be the same for all, got {counts}'
            )
        if any(hasattr(w, 'loss_scaler') for w in wrappers.values()):
            for link in distiller.links:
                if not link.spec.detach:
                    raise ConfigError(
                        f'{link.key}.detach: False cannot be combined with loss scaling, which each member has of '
                        "its own; use AMP with dtype='bfloat16' on CPU, or detach=True"
                    )
        return MemberOptimWrapper(
            dtypes.pop() if len(dtypes) == 1 else None, **self.options, **wrappers
        )

    def _config_of(self, name):
        shared = dict(self.cfg, paramwise_cfg=self.paramwise_cfg)
        cfg = member_optim_config(shared, self.overrides.get(name))
        return cfg, cfg.pop('paramwise_cfg')

    @staticmethod
    def _check_optimizer(cfg):
        key = 'optim_wrapper.optimizer'
        if not isinstance(cfg, dict) or 'type' not in cfg:
            raise ConfigError(f"{key}: expected a config with 'type', got {cfg!r}")
        arguments = {name: value for name, value in cfg.items() if name not in ('type', '_scope_')}
        cls = OPTIMIZERS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
        if cls is None:
            choose(cfg['type'], OPTIMIZERS.module_dict, f'{key}.type')
        check_arguments(cls, arguments, key, given=('params',))

    @staticmethod
    def _cpu_dtype(cfg):
        # mmengine's AmpOptimWrapper refuses machines without GPU; bf16 needs no loss scaling, so autocast is enough there.
        if cfg.get('type', 'OptimWrapper') != 'AmpOptimWrapper' or is_cuda_available():
            return None
        if cfg.pop('dtype', None) not in ('bfloat16', torch.bfloat16):
            raise ConfigError("optim_wrapper.dtype: without a GPU, AMP needs dtype='bfloat16'")
        cfg.pop('loss_scale', None)
        cfg['type'] = 'OptimWrapper'
        return torch.bfloat16
