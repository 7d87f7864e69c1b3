"""Loading of checkpoints without executing anything that comes in them.

Importing this module also guards mmengine's own loading (`load_from`, `resume`, the `Pretrained`
initialization of backbones): it then goes through `load_file`, too.
"""

import hashlib
import os
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer, print_log
from mmengine.runner import CheckpointLoader
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.utils import digit_version
from torch import nn

from mmkd.utils.downloads import download
from mmkd.utils.errors import ConfigError
from mmkd.utils.model import distiller_of

if digit_version(torch.__version__) >= digit_version('2.7'):
    from torch.serialization import safe_globals
else:
    from mmkd.utils.original_stack import safe_globals  # type: ignore[assignment]

# Weights beyond it are a fault of the file or of the training: no network has them.
ABSURD = 1e20
_numpy: Any = np
_core = _numpy.core if np.__version__.startswith('1.') else _numpy._core


def _history_method(owner: Any, name: str) -> Any:
    """Stand in for `getattr`: HistoryBuffer pickles references to its own methods, and no more."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not for a checkpoint')
    return getattr(HistoryBuffer, name)


# What mmengine's checkpoints hold beside tensors and plain containers. None of these runs code of
# the file's choice when it is built.
SAFE_GLOBALS = [
    ConfigDict,
    HistoryBuffer,
    slice,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in '?bBhHiIlLqQefdU'},
    (_history_method, 'builtins.getattr'),
    # The names that Python versions and systems give to a path.
    *(
        (type(Path()), f'{module}.{name}')
        for module in ('pathlib', 'pathlib._local')
        for name in ('PosixPath', 'WindowsPath')
    ),
    # The module's name before and since numpy 2, whichever is installed.
    *(
        (getattr(_core.multiarray, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
]


def load_file(source: str, key: str) -> Any:
    """Load a checkpoint from a path or URL, tensors and plain values only, to the CPU.

    The checksums that torch writes into its files are verified (torch itself does not). Weights
    that are not finite, or beyond 1e20, are named in a warning.

    Args:
        source: Path, or a URL (downloaded to torch's hub cache).
        key: Where it stands in the config, for messages.

    Raises:
        ConfigError: If the file is missing, damaged, or would run code on loading.
    """
    if source.startswith(('http://', 'https://')):
        path = download(source, key)
    else:
        path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f'{key}: no file {source!r} (from {Path.cwd()})')
    try:
        _verify(path)
        content = _load_safely(path)
    except (pickle.UnpicklingError, KeyError) as error:  # of torch 2.1: KeyError
        found = re.search(r'GLOBAL (\S+)', str(error))
        reason = (
            f'it names {found.group(1)}, and loading it could run code'
            if found
            else 'its bytes are none of tensors and plain values'
        )
        raise ConfigError(
            f'{key}: {source!r} is no plain checkpoint, it is not loaded: {reason}'
        ) from error
    except Exception as error:  # damaged bytes can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f'{key}: {source!r} is damaged or no checkpoint: {reason}') from error
    _name_absurd_weights(content, f'{key}: {source!r}')
    return content


def _load_safely(path: Path, **options: Any) -> Any:
    with safe_globals(SAFE_GLOBALS):
        # As text: torch 2.1 maps no file that is given as a path.
        return torch.load(str(path), map_location='cpu', weights_only=True, **options)


def _verify(path: Path) -> None:
    """Compare the CRC-32 of each record of torch's zip format with its bytes."""
    if not zipfile.is_zipfile(path):
        return  # torch's format before 1.6, which has no checksums
    with zipfile.ZipFile(path) as archive:
        damaged = archive.testzip()
    if damaged is not None:
        raise ValueError(f'the checksum of {damaged} is wrong')


def _name_absurd_weights(content: Any, where: str) -> None:
    state = content.get('state_dict', content) if isinstance(content, dict) else None
    if not isinstance(state, dict):
        return
    absurd = [
        name
        for name, value in state.items()
        if isinstance(value, torch.Tensor)
        and value.is_floating_point()
        and value.numel()
        and not bool((value.abs() <= ABSURD).all())
    ]
    if absurd:
        listed = ', '.join(map(str, absurd[:5])) + (', ...' if len(absurd) > 5 else '')
        warnings.warn(
            f'{where}: {len(absurd)} of {len(state)} weights are not finite or beyond {ABSURD:g}: '
            f'{listed}'
        )


# ---------------------------------------------------------------- mmengine's own loading

_handed_over: dict[str, Any] = {}


def hand_over(source: str, checkpoint: Any) -> None:
    """Let mmengine's next load of `source` take what was loaded already."""
    _handed_over[source] = checkpoint


def _load_for_mmengine(filename: str) -> Any:
    checkpoint = _handed_over.pop(filename, None)
    if checkpoint is None:
        checkpoint = load_file(filename, 'checkpoint')
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not state:
        raise ConfigError(f"checkpoint: {filename!r} has no 'state_dict' of named tensors")
    if isinstance(checkpoint.get('meta'), dict):
        # `Runner.resume` would execute it, as a config file, to count the GPUs.
        checkpoint['meta'].pop('config', None)
    return checkpoint


def load_from_local(filename: str, map_location: Any = None) -> Any:
    """Load a file for mmengine, to the CPU, whatever `map_location` says."""
    return _load_for_mmengine(filename)


def load_from_http(filename: str, map_location: Any = None, **kwargs: Any) -> Any:
    """Load a URL for mmengine."""
    return _load_for_mmengine(filename)


def _load_downloaded(file: Any, map_location: Any = None, weights_only: Any = None) -> Any:
    return _load_for_mmengine(str(file))


@contextmanager
def only_weights() -> Iterator[None]:
    """Let every `torch.load` inside, whoever calls it, take tensors and plain values only.

    For networks that load files by other ways than mmengine's (timm, vector quantizers).
    """
    name = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'
    before = os.environ.get(name)
    os.environ[name] = '1'
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def guard_mmengine() -> None:
    """Make mmengine load checkpoints by `load_file`, which executes nothing."""
    CheckpointLoader.register_scheme('', load_from_local, force=True)
    CheckpointLoader.register_scheme(('http://', 'https://'), load_from_http, force=True)
    # The loaders of model zoos (open-mmlab://, mmcls://, torchvision://) call these by name.
    mmengine_checkpoint.load_from_http = load_from_http
    mmengine_checkpoint._safe_torch_load = _load_downloaded


guard_mmengine()


# ---------------------------------------------------------------- members' weights


def member_state(checkpoint: Any, name: str, key: str) -> dict[str, torch.Tensor]:
    """Return a network's state dict: of a plain checkpoint, or of member `name` of an mmkd one.

    Raises:
        ConfigError: If there are no named tensors, or none of that member.
    """
    state = checkpoint.get('state_dict', checkpoint) if isinstance(checkpoint, dict) else checkpoint
    if (
        not isinstance(state, dict)
        or not state
        or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in state.items())
    ):
        raise ConfigError(f"{key}: the checkpoint has no 'state_dict' of named tensors")
    if any(k.startswith('members.') for k in state):
        prefix = f'members.{name}.'
        found = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
        if not found:
            names = sorted({k.split('.')[1] for k in state if k.startswith('members.')})
            raise ConfigError(f'{key}: the checkpoint holds members {names}, none named {name!r}')
        return found
    return {k[7:] if k.startswith('module.') else k: v for k, v in state.items()}


def load_member(
    network: nn.Module, source: str, name: str, key: str, strict: bool
) -> list[str] | None:
    """Load a member's start weights into its network.

    Args:
        network: The member's.
        source: Path or URL of the checkpoint.
        name: The member.
        key: Where the checkpoint stands in the config, for messages.
        strict: Whether every weight must be there and fit (frozen members). Else weights of another
            shape (another class count) keep their initial values; one log line names them.

    Returns:
        The names of the classes that the checkpoint was trained on, None if it does not say.

    Raises:
        ConfigError: If `strict` and anything differs, or if nothing fits at all.
    """
    content = load_file(source, key)
    state = member_state(content, name, key)
    own = network.state_dict()
    unfit = [k for k in state if k in own and own[k].shape != state[k].shape]
    unknown = [k for k in state if k not in own]
    missing = [k for k in own if k not in state and not k.endswith('num_batches_tracked')]
    fitting = {k: v for k, v in state.items() if k in own and k not in unfit}
    if not fitting or (strict and (unfit or unknown or missing)):
        shapes = [(k, tuple(state[k].shape), tuple(own[k].shape)) for k in unfit[:3]]
        raise ConfigError(
            f'{key}: {source!r} does not fit the network: {len(missing)} weights missing '
            f'{missing[:3]}, {len(unknown)} unknown {unknown[:3]}, {len(unfit)} of another shape '
            f'{shapes}'
        )
    network.load_state_dict(fitting, strict=False)
    left = unfit + missing
    listed = ', '.join(left[:12]) + (', ...' if len(left) > 12 else '')
    print_log(
        f'{name}: started from {source}: {len(fitting)} of {len(own)} weights loaded'
        + (f'; left at their initial values: {listed}' if left else ''),
        logger='current',
    )
    return _classes_of(content)


def _classes_of(checkpoint: Any) -> list[str] | None:
    meta = checkpoint.get('meta') if isinstance(checkpoint, dict) else None
    dataset = meta.get('dataset_meta') if isinstance(meta, dict) else None
    classes = dataset.get('classes') if isinstance(dataset, dict) else None
    return [str(one) for one in classes] if isinstance(classes, (list, tuple)) else None


def digest_of(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights and buffers."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(f'{name}{tuple(value.shape)}{value.dtype}'.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def members_of(model: nn.Module) -> dict[str, torch.Tensor]:
    """Return the weights of a distiller's members by their names in checkpoints, else none."""
    distiller = distiller_of(model)
    if not hasattr(distiller, 'ensemble_members'):
        return {}
    return {k: v for k, v in distiller.state_dict().items() if k.startswith('members.')}


def check_members(model: nn.Module, checkpoint: Any, key: str) -> None:
    """Raise a ConfigError unless a checkpoint fits every weight of a distiller's members.

    mmengine loads what fits and leaves the rest at its initial values. Other models are not
    checked.

    Args:
        model: The built model, wrapped or not.
        checkpoint: As `load_file` gives it.
        key: What the message begins with.
    """
    own = members_of(model)
    if not own:
        return
    state = checkpoint.get('state_dict') if isinstance(checkpoint, dict) else None
    if not isinstance(state, dict) or not any(str(k).startswith('members.') for k in state):
        raise ConfigError(
            f'{key} is a checkpoint without members (an exported or foreign one): the networks of '
            'this config would stay untrained; use an exported network with the config beside it'
        )
    unfit = [k for k, v in own.items() if k not in state or state[k].shape != v.shape]
    if unfit:
        names = sorted({name.split('.')[1] for name in unfit})
        raise ConfigError(
            f'{key} does not fit the networks of {names}: {len(unfit)} of {len(own)} weights are '
            f'missing or of another shape: {[name[8:] for name in unfit[:3]]}'
        )


# ---------------------------------------------------------------- the latest checkpoint of a run


def find_latest(
    work_dir: str | Path, folders: tuple[str | Path, ...] = (), template: str | None = None
) -> tuple[str, Any] | None:
    """Return the path and content of the checkpoint with the most iterations that can be read.

    The iterations count, which stand in the file, not its time (a copied folder has other times)
    and not what `last_checkpoint` says (a kill may fall between the two). A warning names each
    damaged file.

    Args:
        work_dir: Work folder of the training.
        folders: Further folders that the training writes checkpoints to.
        template: `filename_tmpl` of the checkpoint hook, if it has one of its own.

    Returns:
        None if nothing was saved yet.

    Raises:
        ConfigError: If there are checkpoints, but none that can be resumed from.
    """
    patterns = ['epoch_*.pth', 'iter_*.pth', 'preempted_iter_*.pth']
    if template is not None:
        patterns.append(re.sub(r'\{[^}]*\}', '*', template))
    places = [Path(place) for place in (work_dir, *folders)]
    found = {p for place in places for pattern in patterns for p in place.glob(pattern)}
    for path in sorted(found, key=_progress, reverse=True):
        try:
            return str(path), load_file(str(path), '--resume')
        except ConfigError as error:
            warnings.warn(f'{error}; trying the one before')
    left = sorted({p for place in places for p in place.glob('*.pth')})
    if left:
        names = ', '.join(path.name for path in left[:5])
        raise ConfigError(
            f'--resume: of the checkpoints in {work_dir} none can be resumed from ({names}'
            f'{", ..." if len(left) > 5 else ""}); name one, --resume FILE, or start anew without '
            '--resume in another --work-dir'
        )
    return None


def latest_whole(work_dir: str | Path) -> str | None:
    """Return the path of the latest readable checkpoint of a work folder, None without one."""
    try:
        latest = find_latest(work_dir)
    except ConfigError:
        return None
    return None if latest is None else latest[0]


def _progress(path: pathlib.Path) -> tuple[int, float]:
    """Return the iteration that a checkpoint was saved after (-1: unknown), and its time."""
    try:
        # Mapped, not read: the few bytes beside the tensors.
        iteration = _load_safely(path, mmap=True)['meta']['iter']
    except Exception:  # a damaged file, which is named when its turn comes
        iteration = None
    return iteration if isinstance(iteration, int) else -1, path.lstat().st_mtime
