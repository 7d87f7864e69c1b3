"""Plain checkpoints and plain configs of members, for machines without mmkd."""

import copy
from pathlib import Path

import torch
from mmengine.config import Config

from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.models.distillers.preprocessing import shared_preprocessor_config
from mmkd.registry import DATA_SAMPLERS, DATASETS
from mmkd.utils.checkpoint import member_state
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.files import write_atomically
from mmkd.version import __version__

# What a member's preprocessing keeps of its own; the rest (padding) is the shared one it was trained and measured with.
OWN_PREPROCESSING = ('mean', 'std', 'bgr_to_rgb', 'rgb_to_bgr', 'to_rgb', 'pad_value', 'pad_val')


def member_plans(cfg):
    """Return the `Member`s of a config's model by name; an ema member gets the config of the member it averages."""
    if 'members' not in cfg.get('model', {}):
        raise ConfigError('model.members: the config is none of an OnlineDistiller')
    specs = {
        name: MemberSpec.from_config(name, member)
        for name, member in cfg.model.members.items()
        if member is not None
    }
    for plan in specs.values():
        if plan.config is None:
            plan.config = specs[choose(plan.of, specs, f'{plan.key}.of')].config
    return specs


def plain_model_config(cfg, specs, name):
    """Return the config of the member's network alone, with the preprocessing it was measured with."""
    model = specs[name].config.copy()
    own = model.get('data_preprocessor') or {}
    shared = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    shared = shared_preprocessor_config({n: p.config for n, p in specs.items()}, shared)
    shared.pop('_scope_', None)
    for key in OWN_PREPROCESSING:
        shared.pop(key, None)
        if key in own:
            shared[key] = own[key]
    model['data_preprocessor'] = shared
    if model.get('_scope_') == cfg.get('default_scope'):
        model.pop('_scope_', None)
    return model


def plain_config(cfg, name):
    """Return a config of the member `name` (or `ensemble`) alone, with the data, evaluation and schedule of `cfg`.

    A member's config names nothing of mmkd's: its own metrics and hooks are left out. The ensemble's is one of mmkd's, of its
    members, without links and mixer.

    Raises:
        ConfigError: If there is no such member, or if something of mmkd's is left that has no plain counterpart.
    """
    specs = member_plans(cfg)
    choose(name, [*specs, 'ensemble'], 'member')
    plain = copy.deepcopy(cfg)
    for key in ('work_dir', 'launcher', 'resume', 'load_from', 'variants'):
        plain.pop(key, None)
    plain.load_from, plain.resume = None, False
    if name == 'ensemble':
        ensemble = plain.model.get('ensemble') or {}
        sharing = plain.model.get('sharing')
        teacher = sharing.get('teacher', 'teacher') if isinstance(sharing, dict) else 'teacher'
        names = ensemble.get('members') or [
            n for n, p in specs.items() if p.training == 'online' and n != teacher
        ]
        plain.model.members = {n: dict(config=plain_model_config(cfg, specs, n)) for n in names}
        plain.model.ensemble = dict(ensemble, members=list(names))
        for key in ('sharing', 'links', 'mixer'):
            plain.model.pop(key, None)
        plain.custom_hooks = [
            h for h in plain.get('custom_hooks', []) if h.get('type') != 'mmkd.BestMemberHook'
        ]
        return plain
    plain.model = plain_model_config(cfg, specs, name)
    plain.pop('custom_imports', None)
    imports = [i for i in (cfg.get('custom_imports') or {}).get('imports', []) if i != 'mmkd']
    if imports:
        plain.custom_imports = dict(cfg.custom_imports, imports=imports)
    if str(plain.get('train_cfg', {}).get('type')).startswith('mmkd.'):
        plain.train_cfg.type = 'EpochBasedTrainLoop'
    checkpoint = plain.get('default_hooks', {}).get('checkpoint', {})
    if str(checkpoint.get('type')).startswith('mmkd.'):
        checkpoint.type = 'CheckpointHook'
    if str(plain.get('log_processor', {}).get('type')).startswith('mmkd.'):
        plain.log_processor.type = 'LogProcessor'
    for backend in [
        *plain.get('vis_backends', []),
        *(plain.get('visualizer') or {}).get('vis_backends', []),
    ]:
        if backend.get('type') == 'mmkd.MLflowVisBackend':
            backend.type = 'MLflowVisBackend'
    plain.val_cfg, plain.test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
    plain.custom_hooks = [
        h for h in plain.get('custom_hooks', []) if not str(h.get('type')).startswith('mmkd.')
    ]
    if 'optim_wrapper' in plain:
        plain.optim_wrapper.pop('constructor', None)
        plain.optim_wrapper.pop('max_skips', None)
        for key, value in (plain.optim_wrapper.pop('members', None) or {}).get(name, {}).items():
            plain.optim_wrapper[key] = value
    best = checkpoint.get('save_best')
    if isinstance(best, str):
        member, _, metric = best.partition('/')
        checkpoint.save_best = metric if member in (*specs, 'ensemble') else best
    for key in ('val_evaluator', 'test_evaluator'):
        metrics = plain.get(key)
        if isinstance(metrics, (list, tuple)):  # mmkd's own metrics are left out
            plain[key] = [
                metric for metric in metrics if not str(metric.get('type')).startswith('mmkd.')
            ]
    _make_datasets_plain(plain._cfg_dict)
    left = [line.strip() for line in plain.pretty_text.splitlines() if 'mmkd.' in line]
    if left:
        raise ConfigError(f'the plain config of {name!r} would still need mmkd: {left[:3]}')
    return plain


def _make_datasets_plain(node):
    if isinstance(node, dict):
        if node.get('type') == 'mmkd.SkipUnreadable':
            inner = node.pop('dataset')
            node.clear()
            node.update(inner)
        kind = node.get('type')
        own = (
            (DATASETS.get(kind) or DATA_SAMPLERS.get(kind))
            if str(kind).startswith('mmkd.')
            else None
        )
        if own is not None:
            node.pop('cache_prefix', None)  # an argument of mmkd's data sets alone
            for key, value in own.plain_config().items():
                node[key] = value if key == 'type' else node.get(key, value)
        for value in dict.values(node):
            _make_datasets_plain(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            _make_datasets_plain(value)


def export_member(cfg, state_dict, name, out, dataset_meta=None):
    """Write a member's plain checkpoint and plain config.

    Args:
        cfg (Config): The training config.
        state_dict (dict): State dict of the distiller (`members.<name>.*`).
        name (str): A member, or `ensemble` (which needs mmkd to run).
        out (str): Path of the checkpoint, `.pth`; the config goes beside it as `.py`.
        dataset_meta (dict, optional): Class names and palette, for inferencers.

    Returns:
        tuple[Path, Path]: The two files.
    """
    out = Path(out)
    if out.suffix != '.pth':
        raise ConfigError(f'OUT: expected a path that ends in .pth, got {str(out)!r}')
    plain = plain_config(cfg, name)
    if name == 'ensemble':
        state = {
            f'members.{n}.{k}': v
            for n in plain.model.members
            for k, v in member_state(dict(state_dict=state_dict), n, 'checkpoint').items()
        }
    else:
        state = member_state(dict(state_dict=state_dict), name, 'checkpoint')
    state = {key: value.detach().cpu().clone() for key, value in state.items()}
    meta = dict(mmkd_version=__version__, member=name)
    if dataset_meta is not None:
        meta['dataset_meta'] = dict(dataset_meta)
    config_file = out.with_suffix('.py')
    write_atomically(config_file, lambda path: Config(plain._cfg_dict).dump(path))
    write_atomically(out, lambda path: torch.save(dict(state_dict=state, meta=meta), path))
    return out, config_file
