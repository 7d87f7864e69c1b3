"""Loading of checkpoints without executing pickles."""

import pickle
import re
import warnings
from pathlib import Path

import numpy as np
import torch
from mmengine.logging import HistoryBuffer, print_log

from mmkd.utils.errors import ConfigError

_multiarray = np._core.multiarray if hasattr(np, '_core') else np.core.multiarray


def _history_method(owner, name):
    """Stand in for `getattr` when loading: mmengine's HistoryBuffer pickles references to its own methods, and no more."""
    if owner is not HistoryBuffer or name.startswith('_'):
        raise pickle.UnpicklingError(f'getattr({owner!r}, {name!r}) is not for a checkpoint')
    return getattr(HistoryBuffer, name)


# What mmengine's checkpoints hold beside tensors and plain containers.
SAFE_GLOBALS = [
    HistoryBuffer,
    np.ndarray,
    np.dtype,
    *{type(np.dtype(code)) for code in '?bBhHiIlLqQefd'},
    (_history_method, 'builtins.getattr'),
    # The module's name before and since numpy 2, whichever is installed.
    *(
        (getattr(_multiarray, name), f'numpy.{core}.multiarray.{name}')
        for core in ('core', '_core')
        for name in ('_reconstruct', 'scalar')
    ),
]


def load_file(source, key):
    """Load a checkpoint from a path or URL, tensors and plain values only.

    Args:
        source (str): Path, or a URL (downloaded to torch's hub cache).
        key (str): Where it stands in the config, for messages.

    Raises:
        ConfigError: If the file is missing, damaged, or would run code on loading.
    """
    if source.startswith(('http://', 'https://')):
        from torch.hub import get_dir

        path = Path(get_dir()) / 'checkpoints' / source.split('/')[-1]
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.hub.download_url_to_file(source, str(path))
            except OSError as error:
                raise ConfigError(f'{key}: cannot download {source!r}: {error}') from error
    else:
        path = Path(source).expanduser()
    if not path.is_file():
        raise ConfigError(f'{key}: no file {source!r} (from {Path.cwd()})')
    try:
        with torch.serialization.safe_globals(SAFE_GLOBALS):
            return torch.load(path, map_location='cpu', weights_only=True)
    except pickle.UnpicklingError as error:
        found = re.search(r'GLOBAL (\S+)', str(error))
        reason = (
            f'it names {found.group(1)}, and loading it could run code'
            if found
            else 'its bytes are none of tensors and plain values'
        )
        raise ConfigError(
            f'{key}: {source!r} is no plain checkpoint, it is not loaded: {reason}'
        ) from error
    except (
        Exception
    ) as error:  # damaged bytes can raise anything, from an IndexError to an AttributeError
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(f'{key}: {source!r} is damaged or no checkpoint: {reason}') from error


def member_state(checkpoint, name, key):
    """Return the network's state dict of a checkpoint: a plain one, or member `name` of an mmkd one."""
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


def load_member(network, source, name, key, strict):
    """Load a member's start weights into its network.

    Args:
        strict (bool): Whether every weight must be there and fit (frozen members). Else weights of another shape (another
            class count) keep their initial values; one log line names them.

    Raises:
        ConfigError: If `strict` and anything differs, or if nothing fits at all.
    """
    state = member_state(load_file(source, key), name, key)
    own = network.state_dict()
    unfit = [k for k in state if k in own and own[k].shape != state[k].shape]
    unknown = [k for k in state if k not in own]
    missing = [k for k in own if k not in state and not k.endswith('num_batches_tracked')]
    fitting = {k: v for k, v in state.items() if k in own and k not in unfit}
    if not fitting or (strict and (unfit or unknown or missing)):
        raise ConfigError(
            f'{key}: {source!r} does not fit the network: {len(missing)} weights missing {missing[:3]}, '
            f'{len(unknown)} unknown {unknown[:3]}, {len(unfit)} of another shape '
            f'{[(k, tuple(state[k].shape), tuple(own[k].shape)) for k in unfit[:3]]}'
        )
    network.load_state_dict(fitting, strict=False)
    left = unfit + missing
    print_log(
        f'{name}: started from {source}: {len(fitting)} of {len(own)} weights loaded'
        + (
            f'; left at their initial values: {", ".join(left[:12])}{", ..." if len(left) > 12 else ""}'
            if left
            else ''
        ),
        logger='current',
    )


def check_members(model, checkpoint, key):
    """Raise a ConfigError unless a checkpoint of a training has every weight of a distiller's members, in its shape.

    mmengine loads what fits and leaves the rest at its initial values. Other models are not checked.

    Args:
        model (nn.Module): The built model, wrapped or not.
        checkpoint (dict): As `load_file` gives it.
        key (str): What the message begins with.
    """
    while not hasattr(model, 'specs') and hasattr(model, 'module'):
        model = model.module
    own = (
        {f'members.{name}': value for name, value in model.members.state_dict().items()}
        if hasattr(model, 'specs')
        else {}
    )
    state = checkpoint.get('state_dict') or {}
    unfit = [
        name for name, value in own.items() if name not in state or state[name].shape != value.shape
    ]
    if unfit:
        names = sorted({name.split('.')[1] for name in unfit})
        raise ConfigError(
            f'{key} does not fit the networks of {names}: {len(unfit)} of {len(own)} weights are missing or of '
            f'another shape: {[name[8:] for name in unfit[:3]]}'
        )


def latest_whole(work_dir):
    """Return the latest checkpoint of a work folder that can be read, None if there is none.

    The newest file counts, not what `last_checkpoint` says: a kill may fall between the two. A warning names each damaged one.
    """
    found = [
        path
        for kind in ('epoch_*.pth', 'iter_*.pth', 'preempted_iter_*.pth')
        for path in Path(work_dir).glob(kind)
    ]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            load_file(str(path), '--resume')
            return str(path)
        except ValueError as error:
            warnings.warn(f'{error}; trying the one before')
    return None
