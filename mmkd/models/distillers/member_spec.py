import copy
import functools
import hashlib
import keyword
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS
from torch import nn

from mmkd.utils.checkpoint import only_weights
from mmkd.utils.checks import check_arguments, check_integer, check_number, choose
from mmkd.utils.config import package_config_path
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError
from mmkd.utils.random_stream import RandomStream

from .preprocessing import is_classifier

TRAININGS = ('online', 'frozen', 'ema')


@functools.lru_cache(maxsize=32)
def _package_config(path: str) -> Config:
    """Read a config file of an installed package, once: peers are often of one file."""
    return Config.fromfile(path)


class MemberSpec:
    """What a config says of one member.

    Args:
        name: The member's name; part of every log and metric key.
        config: A `package::path`, a path to a config file (whose `model` is taken), or the model's
            dict.
        options: Dotted keys of the model and their new values: `{'bbox_head.num_classes': 1}`.
        seed: Start of the member's random stream, initial weights included. Default: derived from
            the run's `randomness.seed` and the member's name.
        training: `online` (trained), `frozen` (a checkpoint, strictly loaded, eval mode, no
            gradient, neither in an optimizer nor in the saved weights) or `ema` (moving average of
            another member).
        checkpoint: Path or URL of a plain toolbox checkpoint to start from. Layers of another
            shape keep their initial weights and are named in the log; for `frozen` all must fit.
        of: The member that an `ema` member averages.
        momentum: Weight of the new value in the average; 1 / t in step t as long as that is more.
        cache_mb: Megabytes of predictions that a `frozen` member keeps at most, so that it need not
            run again on images it has seen (`PredictionCache`); of use with `train_cfg.views`, or
            without random augmentation. Default: 0, none.
        checkpointing: Of an online member, whether the parts of its backbone (True), or the modules
            at these paths, compute their activations again in the backward pass instead of keeping
            them.
        device: Of a frozen member, where its network is (`cuda:1`), if not with the others. Images
            go there, and what its taps read comes back.

    Raises:
        ConfigError: For contradictory or unknown values.
    """

    def __init__(
        self,
        name: str,
        config: str | dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        seed: int | None = None,
        training: str = 'online',
        checkpoint: str | None = None,
        of: str | None = None,
        momentum: float = 0.001,
        cache_mb: int = 0,
        checkpointing: bool | Sequence[str] = False,
        device: str | None = None,
    ) -> None:
        key = f'model.members.{name}'
        if not name.isidentifier() or keyword.iskeyword(name) or name in ('ensemble', 'loss'):
            raise ConfigError(
                f"model.members: {name!r} is no valid member name: use letters, digits and '_', "
                "and neither 'ensemble' nor 'loss' nor a keyword of Python"
            )
        self.name, self.key = name, key
        self.training = choose(training, TRAININGS, f'{key}.training')
        self.of, self.momentum, self.checkpoint = of, momentum, checkpoint
        if (training == 'ema') != (of is not None):
            raise ConfigError(
                f"{key}: 'of' names the averaged member of training='ema', got "
                f'training={training!r}, of={of!r}'
            )
        if training == 'ema' and (config is not None or checkpoint is not None or options):
            raise ConfigError(
                f"{key}: an 'ema' member has the network of {of!r}; config, options and checkpoint "
                'are not for it'
            )
        if checkpointing and training != 'online':
            raise ConfigError(
                f'{key}.checkpointing: a member with training={training!r} keeps no activations'
            )
        self.checkpointing = checkpointing
        self.device = None if device is None else _device(device, f'{key}.device')
        if device is not None and training != 'frozen':
            raise ConfigError(
                f"{key}.device: expected training='frozen', got {training!r}: members that are "
                'trained, and averages of them, are on one device'
            )
        if training == 'frozen' and checkpoint is None:
            raise ConfigError(f'{key}.checkpoint: a frozen member needs the checkpoint that it is')
        if training != 'ema' and config is None:
            raise ConfigError(
                f"{key}.config: expected a 'package::path', a config file or a model dict"
            )
        self.cache_mb = check_integer(cache_mb, f'{key}.cache_mb', 0)
        if cache_mb and training != 'frozen':
            raise ConfigError(
                f"{key}.cache_mb: is for training='frozen', whose predictions do not change, got "
                f'training={training!r}'
            )
        check_number(momentum, f'{key}.momentum', 0, 1)
        if momentum == 0:
            raise ConfigError(
                f'{key}.momentum: expected a value in (0, 1], got 0: the average would never move'
            )
        if seed is not None:
            check_integer(seed, f'{key}.seed', 0, 2**32 - 1)
        for argument, value in (('checkpoint', checkpoint), ('of', of)):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f'{key}.{argument}: expected a string, got {value!r}')
        if not isinstance(options or {}, dict):
            raise ConfigError(
                f'{key}.options: expected a dict of dotted keys and values, got {options!r}'
            )
        if not isinstance(config, (str, dict, type(None))):
            raise ConfigError(
                f"{key}.config: expected a 'package::path', a config file or a model dict, got "
                f'{config!r}'
            )
        self.seed = seed
        self.stream: RandomStream | None = None
        self.config: ConfigDict | None = (
            None if config is None else self._resolve(config, options or {})
        )

    @classmethod
    def from_config(cls, name: str, cfg: Mapping[str, Any]) -> 'MemberSpec':
        """Build from a config's dict, checking its keys."""
        if not isinstance(cfg, dict):
            raise ConfigError(f'model.members.{name}: expected a dict with `config`, got {cfg!r}')
        check_arguments(cls.__init__, cfg, f'model.members.{name}', given=('name',))
        return cls(name, **cfg)

    def _resolve(self, config: str | dict[str, Any], options: dict[str, Any]) -> ConfigDict:
        scope = None
        if isinstance(config, str):
            if '::' in config:
                scope = config.split('::')[0]
                path = package_config_path(config, f'{self.key}.config')
                loaded = copy.deepcopy(_package_config(path))
            else:
                path = config
                if not Path(path).is_file():
                    raise ConfigError(f'{self.key}.config: no file {path!r} (from {Path.cwd()})')
                loaded = Config.fromfile(path)
            if 'model' not in loaded:
                raise ConfigError(f"{self.key}.config: {path} has no 'model'")
            scope = scope or loaded.get('default_scope')
            found = ConfigDict(loaded.model)
            if loaded.get('data_preprocessor') is not None:  # as mmengine's Runner does
                found.setdefault('data_preprocessor', loaded.data_preprocessor)
        else:
            found = ConfigDict(config)
        if str(found.get('type')).rpartition('.')[2] == 'OnlineDistiller':
            raise ConfigError(
                f'{self.key}.config: expected a network, got an OnlineDistiller of its own members'
            )
        merged = Config(dict(model=found.copy()))
        for option in options:
            self._check_option(merged.model, option)
        # A copy: merging takes `_delete_` out of what it is given, and a config is resolved again.
        given = {f'model.{name}': value for name, value in deepcopy(dict(options)).items()}
        try:
            merged.merge_from_dict(given)
        except (TypeError, KeyError, IndexError, AssertionError) as error:
            raise ConfigError(f'{self.key}.options: {error}') from error
        model: ConfigDict = merged.model
        if scope:
            model.setdefault('_scope_', scope)
        preprocessor = model.get('data_preprocessor')
        if not isinstance(preprocessor, dict | None):
            raise ConfigError(
                f'{self.key}.config.data_preprocessor: expected a dict, got {preprocessor!r}'
            )
        if is_classifier(model) and preprocessor is not None:
            # As the classes themselves do.
            preprocessor.setdefault('type', 'ClsDataPreprocessor')
            if model.type.endswith('ImageClassifier') or 'augments' in (
                model.get('train_cfg') or {}
            ):
                preprocessor.setdefault('batch_augments', model.get('train_cfg'))
        return model

    def _check_option(self, model: Any, option: str) -> None:
        # The last name may be new (an argument left at its default), the others must be there.
        node = model
        key = f'{self.key}.options[{option!r}]'
        *way, last = option.split('.')
        for part in way:
            if isinstance(node, (list, tuple)):
                node = node[int(choose(part, range(len(node)), key))]
            elif not isinstance(node, dict):
                raise ConfigError(f'{key}: {part!r} is below a value that is not a dict: {node!r}')
            else:
                choose(part, node, key)
                node = node[part]
        if isinstance(node, (list, tuple)):
            choose(last, range(len(node)), key)

    def build(self, run_seed: int) -> nn.Module:
        """Build the network inside the member's own random stream.

        Args:
            run_seed: What a member without a `seed` derives its own from.
        """
        assert self.config is not None, 'an ema member is a copy of another'
        if self.seed is None:
            self.seed = derived_seed(run_seed, self.name)
        self.stream = RandomStream(self.seed)
        with self.stream(), only_weights(), naming_keys(self.config, f'{self.key}.config'):
            return MMENGINE_MODELS.build(self.config.copy())


def _device(name: Any, key: str) -> torch.device:
    try:
        device = torch.device(name)
    except (RuntimeError, TypeError) as error:
        raise ConfigError(f"{key}: expected 'cpu' or 'cuda:N', got {name!r}") from error
    count = torch.cuda.device_count()
    if device.type not in ('cpu', 'cuda') or (
        device.type == 'cuda' and not (device.index or 0) < count
    ):
        raise ConfigError(f'{key}: there is no {name!r} here: {count} GPUs, and the CPU')
    return device


def derived_seed(run_seed: int, name: str) -> int:
    """Return a seed for what is called `name`: its own for each run and name, in [0, 2**32)."""
    digest = hashlib.sha256(f'{run_seed}:{name}'.encode()).digest()
    return int.from_bytes(digest[:4], 'big')
