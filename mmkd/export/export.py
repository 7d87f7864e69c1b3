"""Plain checkpoints of members, each with its plain config beside it."""

import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import Tensor

from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.utils.checkpoint import load_file, member_state
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.files import write_atomically
from mmkd.version import __version__

from .config_text import config_text
from .plain import member_specs, plain_config
from .tempered import tempered_state


def export_member(
    cfg: Config,
    state_dict: dict[str, Tensor],
    name: str,
    out: str | Path,
    dataset_meta: dict[str, Any] | None = None,
    verify: bool = False,
    check_out: bool = True,
    temperature: float = 1.0,
) -> tuple[Path, Path]:
    """Write a member's plain checkpoint and plain config.

    Args:
        cfg: The training config.
        state_dict: State dict of the distiller (`members.<name>.*`).
        name: A member, or `ensemble` (which needs mmkd to run).
        out: Path of the checkpoint, `.pth`; the config goes beside it as `.py`. An earlier export
            there is replaced, and nothing else.
        dataset_meta: Class names and palette, for inferencers.
        verify: Whether to build the network from the config and compare it with the weights, where
            the two may come from different trainings.
        check_out: Whether to look at what is at `out`; False for a caller whose own export it is.
        temperature: What the logits are divided by, in the weights themselves.

    Returns:
        The two files.

    Raises:
        ConfigError: If there is no such member, if `out` is taken, or if config and weights do not
            fit together.
    """
    out = Path(out)
    if out.suffix != '.pth':
        raise ConfigError(f'OUT: expected a path that ends in .pth, got {str(out)!r}')
    plain = plain_config(cfg, name)
    state = _state(cfg, state_dict, name, plain)
    if verify:
        _check_fit(plain, state, name)
    config_file = out.with_suffix('.py')
    if check_out:
        _check_free(out, config_file)
    if temperature != 1:
        if name == 'ensemble':
            raise ConfigError(
                '--temperature: the ensemble cannot take one into its weights: it fuses what its '
                'members predict; tools/export_onnx.py --temperature can'
            )
        state = tempered_state(plain, state, name, temperature)
    meta: dict[str, Any] = dict(mmkd_version=__version__, member=name)
    if temperature != 1:
        meta['temperature'] = temperature
    if dataset_meta is not None:
        meta['dataset_meta'] = dict(dataset_meta)
    state = {key: value.detach().cpu().clone() for key, value in state.items()}
    text = config_text(plain)
    content = io.BytesIO()  # torch's own writer turns a full disk into an unclear error
    torch.save(dict(state_dict=state, meta=meta), content)
    with wrong_paths():
        write_atomically(out, lambda path: Path(path).write_bytes(content.getvalue()))
        write_atomically(config_file, lambda path: Path(path).write_text(text, encoding='utf-8'))
    return out, config_file


def inference_state(
    cfg: Config, state_dict: dict[str, Tensor], members: Iterable[str]
) -> dict[str, Tensor]:
    """Return the weights of some members, `members.<name>.*`, of a distiller's state dict.

    Those of frozen members are in the checkpoints that they are.
    """
    specs = member_specs(cfg)
    return {
        f'members.{name}.{key}': value
        for name in members
        for key, value in _weights(specs[name], state_dict, name).items()
    }


def _weights(spec: MemberSpec, state_dict: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    if spec.training == 'frozen':
        key = f'{spec.key}.checkpoint'
        return member_state(load_file(str(spec.checkpoint), key), name, key)
    return member_state(dict(state_dict=state_dict), name, 'checkpoint')


def _state(
    cfg: Config, state_dict: dict[str, Tensor], name: str, plain: Config
) -> dict[str, Tensor]:
    if name == 'ensemble':
        return inference_state(cfg, state_dict, plain.model.members)
    return _weights(member_specs(cfg)[name], state_dict, name)


def _check_fit(plain: Config, state: dict[str, Tensor], name: str) -> None:
    init_default_scope(plain.get('default_scope') or 'mmengine')
    with naming_keys(plain.model, 'model'), torch.random.fork_rng(devices=[]):
        own = MODELS.build(plain.model).state_dict()
    check_fit(own, state, name)


def check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], name: str) -> None:
    """Raise a ConfigError unless a checkpoint's weights are those of a network."""
    wrong = [k for k in own if k not in state or own[k].shape != state[k].shape]
    wrong += [k for k in state if k not in own]
    if wrong:
        raise ConfigError(
            f'{name!r}: the checkpoint does not fit the network of the config: {len(wrong)} of '
            f'{len(own)} weights are missing, unknown or of another shape: {wrong[:3]}; is the '
            'config that of the training?'
        )


def _check_free(out: Path, config_file: Path) -> None:
    """Raise a ConfigError if the files are there and are no earlier export."""
    if not out.exists() and not config_file.exists():
        return
    if out.is_file():
        content = load_file(str(out), 'OUT')
        meta = content.get('meta') if isinstance(content, dict) else None
        if isinstance(meta, dict) and 'member' in meta:
            return
    taken = out if out.exists() else config_file
    raise ConfigError(f'OUT: {taken} is there already and is no export: name another place')
