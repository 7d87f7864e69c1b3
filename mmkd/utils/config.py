"""Configs inside installed packages.

Importing this module also lets `_base_` name them as members do, `_base_ = 'mmkd::...'` among them.
"""

import importlib
import importlib.util
from pathlib import Path

from mmengine.config import Config

from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


def package_config_path(reference: str, key: str) -> str:
    """Return the file of a `package::path` reference: `<package>/.mim/configs/<path>`.

    mmengine resolves such references by the distribution's name, which the forks changed; this
    uses the imported package's own folder.

    Args:
        reference: For instance `mmdet::yolox/yolox_tiny_8xb8-300e_coco.py`.
        key: Where it stands in the config, for messages.

    Raises:
        ConfigError: If the package is not installed, ships no configs or has no such file.
    """
    package, _, path = reference.partition('::')
    folder = package_config_folder(package, f'{key}: {reference!r}')
    if not (folder / path).is_file():
        names = sorted(str(p.relative_to(folder)) for p in folder.rglob('*.py'))
        choose(path, names, f'{key} ({package}::)')
    return str(folder / path)


def package_config_folder(package: str, key: str) -> Path:
    """Return the folder of a package's configs; a ConfigError begins with `key`."""
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        raise ConfigError(f'{key}: the package {package!r} cannot be imported ({error})') from error
    if module.__file__ is None:
        raise ConfigError(f'{key}: {package!r} is a folder without an __init__.py')
    folder = Path(module.__file__).parent / '.mim' / 'configs'
    # The other one is that of an editable install.
    return folder if folder.is_dir() else Path(module.__file__).parents[1] / 'configs'


_mmengine_base_path = Config._get_cfg_path


def _base_path(cfg_path: str, filename: str) -> tuple[str, str | None]:
    """Return the file of a `_base_` and the scope of what it names, for mmengine."""
    package = cfg_path.partition('::')[0]
    if '::' not in cfg_path or importlib.util.find_spec(package) is None:
        return _mmengine_base_path(cfg_path, filename)
    path = package_config_path(cfg_path, f'_base_ of {filename}')
    # mmkd's configs write `mmkd.` before what is mmkd's; the rest is of their `default_scope`.
    return path, None if package == 'mmkd' else package


# mmengine knows the packages of a list, and those by the names of their original distributions.
Config._get_cfg_path = staticmethod(_base_path)
