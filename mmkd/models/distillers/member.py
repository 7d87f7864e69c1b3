import importlib
from pathlib import Path

from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS as MMENGINE_MODELS

from mmkd.utils.checks import check_arguments, check_number, choose
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError
from mmkd.utils.random_stream import RandomStream

TRAININGS = ('online', 'frozen', 'ema')


def package_config_path(reference, key):
    """Return the file of a `package::path` reference: `<package>/.mim/configs/<path>`.

    mmengine resolves such references by the distribution's name, which the forks changed; this uses the imported
    package's own folder.

    Raises:
        ConfigError: If the package is not installed, ships no configs or has no such file.
    """
    package, _, path = reference.partition('::')
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(
            f'{key}: {reference!r}: the package {package!r} cannot be imported ({error})'
        ) from error
    folder = Path(module.__file__).parent / '.mim' / 'configs'
    if not folder.is_dir():
        folder = Path(module.__file__).parents[1] / 'configs'  # an editable install of the package
    if not (folder / path).is_file():
        choose(
            path,
            sorted(str(p.relative_to(folder)) for p in folder.rglob('*.py')),
            f'{key} ({package}::)',
        )
    return str(folder / path)


class Member:
    """One network of an `OnlineDistiller`, as its config describes it.

    Args:
        name (str): The member's name; part of every log and metric key.
        config (str | dict): A `package::path`, a path to a config file (whose `model` is taken), or the model's dict.
        options (dict, optional): Dotted keys of the model and their new values: `{'bbox_head.num_classes': 1}`.
        seed (int, optional): Start of the member's random stream, initial weights included. The distiller fills in one
            of its own for each member without one.
        training (str): `online` (trained), `frozen` (a checkpoint, strictly loaded, eval mode, no gradient, in neither
            optimiser nor saved weights) or `ema` (moving average of another member). Default: `online`.
        checkpoint (str, optional): Path or URL of a plain toolbox checkpoint to start from. Layers of another shape keep
            their initial weights and are named in the log; for `frozen` all must fit.
        of (str, optional): The member that an `ema` member averages.
        momentum (float): Weight of the new value in the average. Default: 0.001.

    Raises:
        ConfigError: For contradictory or unknown values.
    """

    def __init__(
        self,
        name,
        config=None,
        options=None,
        seed=None,
        training='online',
        checkpoint=None,
        of=None,
        momentum=0.001,
    ):
        key = f'model.members.{name}'
        if not name.isidentifier() or name in ('ensemble', 'loss'):
            raise ConfigError(
                f"model.members: {name!r} is no valid member name: use letters, digits and '_', and neither "
                "'ensemble' nor 'loss'"
            )
        self.name, self.key = name, key
        self.training = choose(training, TRAININGS, f'{key}.training')
        self.of, self.momentum, self.checkpoint = of, momentum, checkpoint
        if (training == 'ema') != (of is not None):
            raise ConfigError(
                f"{key}: 'of' names the averaged member of training='ema', got training={training!r}, of={of!r}"
            )
        if training == 'ema' and (config is not None or checkpoint is not None or options):
            raise ConfigError(
                f"{key}: an 'ema' member has the network of {of!r}; config, options and checkpoint are not for it"
            )
        if training == 'frozen' and checkpoint is None:
            raise ConfigError(f'{key}.checkpoint: a frozen member needs the checkpoint that it is')
        if training != 'ema' and config is None:
            raise ConfigError(
                f"{key}.config: expected a 'package::path', a config file or a model dict"
            )
        check_number(momentum, f'{key}.momentum', 0, 1)
        if momentum == 0:
            raise ConfigError(
                f'{key}.momentum: expected a value in (0, 1], got 0: the average would never move'
            )
        if seed is not None and (
            isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32
        ):
            raise ConfigError(f'{key}.seed: expected an integer in [0, 2**32), got {seed!r}')
        for argument, value in (('checkpoint', checkpoint), ('of', of)):
            if value is not None and not isinstance(value, str):
                raise ConfigError(f'{key}.{argument}: expected a string, got {value!r}')
        if not isinstance(options or {}, dict):
            raise ConfigError(
                f'{key}.options: expected a dict of dotted keys and values, got {options!r}'
            )
        if not isinstance(config, (str, dict, type(None))):
            raise ConfigError(
                f"{key}.config: expected a 'package::path', a config file or a model dict, got {config!r}"
            )
        self.seed = seed
        self.stream = None
        self.config = None if training == 'ema' else self._resolve(config, options or {})

    @classmethod
    def from_config(cls, name, cfg):
        """Build from a config's dict, checking its keys."""
        if not isinstance(cfg, dict):
            raise ConfigError(f'model.members.{name}: expected a dict with `config`, got {cfg!r}')
        check_arguments(cls.__init__, cfg, f'model.members.{name}', given=('name',))
        return cls(name, **cfg)

    def _resolve(self, config, options):
        scope = None
        if isinstance(config, str):
            if '::' in config:
                scope, path = (
                    config.split('::')[0],
                    package_config_path(config, f'{self.key}.config'),
                )
            else:
                path = config
                if not Path(path).is_file():
                    raise ConfigError(f'{self.key}.config: no file {path!r} (from {Path.cwd()})')
            loaded = Config.fromfile(path)
            if 'model' not in loaded:
                raise ConfigError(f"{self.key}.config: {path} has no 'model'")
            scope = scope or loaded.get('default_scope')
            config = loaded.model
            if loaded.get('data_preprocessor') is not None:  # as mmengine's Runner does
                config.setdefault('data_preprocessor', loaded.data_preprocessor)
        config = Config(dict(model=ConfigDict(config).copy()))
        for option in options:
            self._check_option(config.model, option)
        try:
            config.merge_from_dict({f'model.{name}': value for name, value in options.items()})
        except (TypeError, KeyError, IndexError, AssertionError) as error:
            raise ConfigError(f'{self.key}.options: {error}') from error
        if scope:
            config.model.setdefault('_scope_', scope)
        if (
            config.model.get('type') == 'ImageClassifier'
            and config.model.get('data_preprocessor') is not None
        ):
            config.model.data_preprocessor.setdefault(
                'type', 'ClsDataPreprocessor'
            )  # as the class itself does
            config.model.data_preprocessor.setdefault(
                'batch_augments', config.model.get('train_cfg')
            )
        return config.model

    def _check_option(self, model, option):
        # The last name may be new (an argument left at its default), those on the way must be there.
        node = model
        key = f'{self.key}.options[{option!r}]'
        *way, last = option.split('.')
        for part in way:
            if isinstance(node, (list, tuple)):
                node = node[int(choose(part, range(len(node)), key))]
            elif not isinstance(node, dict):
                raise ConfigError(f'{key}: {part!r} is below a value that is no dict: {node!r}')
            else:
                choose(part, node, key)
                node = node[part]
        if isinstance(node, (list, tuple)):
            choose(last, range(len(node)), key)

    def build(self, seed):
        """Build the network inside the member's own random stream, started at its seed (or `seed` if it has none)."""
        self.seed = seed if self.seed is None else self.seed
        self.stream = RandomStream(self.seed)
        with self.stream(), naming_keys(self.config, f'{self.key}.config'):
            return MMENGINE_MODELS.build(self.config.copy())
