"""Configs of members alone, for machines without mmkd."""

import copy
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import Runner

import mmkd.registry
from mmkd.models.distillers.member_spec import MemberSpec
from mmkd.models.distillers.preprocessing import is_classifier, shared_preprocessor_config
from mmkd.models.distillers.sharing import sharing_members
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.optim_config import member_optim_config
from mmkd.utils.roles import ensemble_of, students_of

from .metric_names import rename_for_ensemble, rename_for_member

CHANNEL_ORDER = ('bgr_to_rgb', 'rgb_to_bgr', 'to_rgb')
# What a member's preprocessing always keeps of its own; the rest (padding) is the shared one it was
# trained and measured with.
NORMALIZATION = ('mean', 'std', *CHANNEL_ORDER)
PADDING_VALUE = ('pad_value', 'pad_val')
# What a config's model says of several members trained together; no ensemble needs it.
OF_SEVERAL = ('sharing', 'links', 'mixer', 'strong_view', 'max_share')
# What a config says, outside its model, of one run or of the training of several members.
LEFT_OUT = (
    'work_dir',
    'launcher',
    'resume',
    'load_from',
    'variants',
    'unlabeled_dataloader',
    'pretrain',
)
# What stands around a data set and has no plain counterpart: the data set itself is left.
DATASET_WRAPPERS = ('mmkd.SkipUnreadable', 'mmkd.LabeledSubset')
# What a Runner or a toolbox's tool reads of a config.
RUNNER_KEYS = {*inspect.signature(Runner).parameters, 'tta_model', 'custom_imports'}
REGISTRIES = [value for value in vars(mmkd.registry).values() if isinstance(value, Registry)]


def member_specs(cfg: Config) -> dict[str, MemberSpec]:
    """Return the members of a config's model by name; an ema member gets the network it averages.

    Raises:
        ConfigError: If the config does not describe an OnlineDistiller.
    """
    if not isinstance((cfg.get('model') or {}).get('members'), dict):
        raise ConfigError('model.members: the config does not describe an OnlineDistiller')
    specs = {
        name: MemberSpec.from_config(name, member)
        for name, member in cfg.model.members.items()
        if member is not None
    }
    if not specs:
        raise ConfigError('model.members: expected a dict of one or more members, got none')
    for name, member in _added_members(cfg.model).items():
        specs.setdefault(name, MemberSpec.from_config(name, member))
    online = [name for name, spec in specs.items() if spec.training == 'online']
    for spec in specs.values():
        if spec.training == 'ema':
            spec.config = specs[choose(spec.of, online, f'{spec.key}.of (an online member)')].config
    return specs


def _added_members(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the members that a preset adds (the averages of a `mean_teacher`)."""
    sharing = model.get('sharing')
    preset: dict[str, Any] = (
        dict(type=sharing or '') if not isinstance(sharing, Mapping) else {**sharing}
    )
    students = preset.get('students') or students_of(model)
    return sharing_members(preset.get('type', ''), students, preset.get('ema_momentum', 0.01))


def shared_preprocessor(cfg: Config, specs: dict[str, MemberSpec]) -> dict[str, Any]:
    """Return the config of the preprocessing that all members share."""
    given = cfg.model.get('data_preprocessor') or cfg.get('data_preprocessor')
    configs: dict[str, Any] = {name: spec.config for name, spec in specs.items()}
    return shared_preprocessor_config(configs, given)


def self_contained(cfg: Config) -> None:
    """Write into a config what else files and the members' order decide, in place.

    These are the members' networks, in place of the names of their files, and the shared
    preprocessing, which is otherwise the first member's. A work folder then does not depend on
    files that may change, nor on the order in which a config is written down.
    """
    specs = member_specs(cfg)
    for name, spec in specs.items():
        if spec.training != 'ema':
            member = cfg.model.members[name]
            member['config'] = spec.config
            member.pop('options', None)
    cfg.model.data_preprocessor = shared_preprocessor(cfg, specs)
    _serve_inferencers(cfg)


def plain_model_config(cfg: Config, specs: dict[str, MemberSpec], name: str) -> dict[str, Any]:
    """Return the config of the member's network alone, with its preprocessing as measured.

    Normalization is the member's own. Padding is the shared one's, its value too: there is one
    batch for all. But where a member's normalization differs, `Renormalize` fills the padding with
    the member's own value, which is then the plain network's; it is that of the normalized image
    in either case, the same number in all channels.
    """
    model: Any = copy.deepcopy(specs[name].config)
    given = model.get('data_preprocessor')
    own = given or {}
    shared = shared_preprocessor(cfg, specs)
    shared.pop('_scope_', None)
    # Without its own, the shared one's were measured.
    for key in _own_preprocessing(shared, own) if given is not None else ():
        shared.pop(key, None)
        if key in own:
            shared[key] = own[key]
    if is_classifier(model):
        # It would take its batch augmentations from here; those in training were the shared ones.
        model.pop('train_cfg', None)
        shared.setdefault('batch_augments', None)
        if 'num_classes' in own:
            shared.setdefault('num_classes', own['num_classes'])
    model['data_preprocessor'] = shared
    if model.get('_scope_') == cfg.get('default_scope'):
        model.pop('_scope_', None)
    return model


def _own_preprocessing(shared: Mapping[str, Any], own: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what a member's preprocessing keeps of its own, see `plain_model_config`."""
    if _normalization(shared) == _normalization(own):
        return NORMALIZATION
    return NORMALIZATION + PADDING_VALUE


def _normalization(preprocessor: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what `Renormalize` compares of a preprocessor: channel order, mean and std."""
    swaps = any(preprocessor.get(key) for key in CHANNEL_ORDER)
    if preprocessor.get('mean') is None:
        return swaps, (0, 0, 0), (1, 1, 1)
    return swaps, _of_channels(preprocessor['mean']), _of_channels(preprocessor.get('std'))


def _of_channels(values: Any) -> Any:
    if not isinstance(values, list | tuple):
        return values
    return tuple(values) * 3 if len(values) == 1 else tuple(values)


def plain_config(cfg: Config, name: str) -> Config:
    """Return a config of the member `name` (or `ensemble`) alone, with the data of `cfg`.

    A member's config names nothing of mmkd's: mmkd's metrics and hooks are left out. (But for a
    network that has no plain form, an `EfficientNetLite` with `upscale`; it imports mmkd.) The
    ensemble's is one of mmkd's, of its members, without links and mixer.

    Where the best checkpoint, early stopping or a schedule waits for metrics of several, the
    member's own stay, without its name. Where it has none, those of the ensemble, else of the first
    member named, become its own. The ensemble's config waits for those of its members in the same
    way.

    Raises:
        ConfigError: If there is no such member, or if something of mmkd's is left that has no plain
            counterpart.
    """
    specs = member_specs(cfg)
    choose(name, [*specs, 'ensemble'], 'member')
    plain = copy.deepcopy(cfg)
    # A leading underscore marks a config's own variables, which nothing reads.
    for key in [*LEFT_OUT, *(key for key in plain if key.startswith('_'))]:
        plain.pop(key, None)
    plain.load_from, plain.resume = None, False
    if name == 'ensemble':
        _keep_ensemble(plain, cfg, specs)
        return plain
    plain.model = plain_model_config(cfg, specs, name)
    plain.pop('custom_imports', None)
    imports = [i for i in (cfg.get('custom_imports') or {}).get('imports', []) if i != 'mmkd']
    if imports:
        plain.custom_imports = dict(cfg.custom_imports, imports=imports)
    plain.val_cfg, plain.test_cfg = dict(type='ValLoop'), dict(type='TestLoop')
    plain.custom_hooks = [h for h in plain.get('custom_hooks', []) if not _is_own(h)]
    for key in ('val_evaluator', 'test_evaluator'):
        if isinstance(plain.get(key), list | tuple):
            plain[key] = [metric for metric in plain[key] if not _is_own(metric)]
        elif _is_own(plain.get(key)):
            plain[key] = []
    if 'optim_wrapper' in plain:
        shared = dict(plain.optim_wrapper)
        shared.pop('constructor', None)
        shared.pop('max_skips', None)
        overrides = (shared.pop('members', None) or {}).get(name)
        optim_wrapper = member_optim_config(shared, overrides)
        if 'member_constructor' in optim_wrapper:
            optim_wrapper['constructor'] = optim_wrapper.pop('member_constructor')
        plain.optim_wrapper = optim_wrapper
    schedules = plain.get('param_scheduler')
    if isinstance(schedules, dict) and 'type' not in schedules:  # each member's own
        plain.param_scheduler = schedules.get(name)
    rename_for_member(plain, name, [*specs, 'ensemble'])
    _make_plain(plain._cfg_dict)
    _name_test_pipeline(plain)
    # A network of which mmkd's class says that it stays, since no other can do its work.
    needed = {kind for kind in _own_names(plain.model) if hasattr(_own_class(kind), 'plain_config')}
    for key in [key for key in plain if key not in RUNNER_KEYS and _own_names(plain[key])]:
        plain.pop(key)  # a variable, which nothing reads
    left = sorted(_own_names(plain._cfg_dict) - needed)
    if left:
        raise ConfigError(f'the plain config of {name!r} would still need mmkd: {left[:3]}')
    if needed:
        plain.custom_imports = dict(imports=[*imports, 'mmkd'], allow_failed_imports=False)
    return plain


def inference_model(cfg: Config, names: Sequence[str]) -> dict[str, Any]:
    """Return the config of a model that predicts with `names` and holds the members for it alone.

    It has no links and no mixer; all members are `online`, so that no file of weights is read when
    it is built (`inference_state` has them).

    Raises:
        ConfigError: If there is no such member.
    """
    specs = member_specs(cfg)
    for name in names:
        choose(name, [*specs, 'ensemble'], 'member')
    fused = ensemble_of(cfg.model) if 'ensemble' in names else []
    needed = [name for name in specs if name in names or name in fused]
    options = dict(cfg.model.get('ensemble') or {}) if fused else {}
    model: dict[str, Any] = dict(
        type='mmkd.OnlineDistiller',
        members={n: dict(config=plain_model_config(cfg, specs, n)) for n in needed},
        ensemble=dict(options, members=fused or needed[:1]),
        data_preprocessor=shared_preprocessor(cfg, specs),
    )
    if cfg.model.get('task'):
        model['task'] = cfg.model.task
    return model


def _serve_inferencers(cfg: Config) -> None:
    """Give an OnlineDistiller's config what MMDetection's and MMSegmentation's functions read."""
    cfg.model.setdefault('backbone', {})
    _name_test_pipeline(cfg)


def _name_test_pipeline(plain: Config) -> None:
    """Give MMSegmentation's `inference_model` the top-level `test_pipeline` that it reads."""
    dataset = (plain.get('test_dataloader') or {}).get('dataset') or {}
    while 'dataset' in dataset and 'pipeline' not in dataset:
        dataset = dataset['dataset']
    if 'test_pipeline' not in plain and dataset.get('pipeline') is not None:
        plain.test_pipeline = copy.deepcopy(dataset['pipeline'])


def _keep_ensemble(plain: Config, cfg: Config, specs: dict[str, MemberSpec]) -> None:
    names = ensemble_of(cfg.model)
    model = plain.model
    model.data_preprocessor = shared_preprocessor(cfg, specs)
    model.members = {n: dict(config=plain_model_config(cfg, specs, n)) for n in names}
    model.ensemble = dict(model.get('ensemble') or {}, members=names)
    for key in OF_SEVERAL:
        model.pop(key, None)
    _serve_inferencers(plain)
    (plain.get('train_cfg') or {}).pop('unlabeled_dataloader', None)
    for key in ('val_cfg', 'test_cfg'):
        _keep_members(plain.get(key), [*names, 'ensemble'])
    gone = [name for name in specs if name not in names]
    plain.custom_hooks = [h for h in plain.get('custom_hooks', []) if _keep_hook(h, names, gone)]
    if 'optim_wrapper' in plain:
        own = plain.optim_wrapper.get('members') or {}
        plain.optim_wrapper.members = {n: own[n] for n in names if n in own}
    schedules = plain.get('param_scheduler')
    if isinstance(schedules, dict) and 'type' not in schedules:  # each member's own
        plain.param_scheduler = {n: schedules[n] for n in names if n in schedules}
    measured = (plain.get('val_cfg') or {}).get('members') or ['ensemble']
    rename_for_ensemble(plain, gone, 'ensemble' if 'ensemble' in measured else measured[-1])


def _keep_members(node: Any, names: Sequence[str]) -> bool:
    """Keep of the `members` that a loop or hook acts on those in `names`; whether any is left."""
    listed = node.get('members') if isinstance(node, dict) else None
    if not listed:
        return True
    left = [name for name in listed if name in names]
    if left:
        node['members'] = left
    else:
        node.pop('members')
    return bool(left)


def _keep_hook(hook: Any, names: Sequence[str], gone: Sequence[str]) -> bool:
    """Take members that are left out from a hook of mmkd's, in place; whether the hook stays."""
    if not _is_own(hook):
        return True
    if hook['type'] == 'mmkd.BestMemberHook' or not _keep_members(hook, names):
        return False
    if hook.get('expected'):  # a study's metrics
        hook['expected'] = [m for m in hook['expected'] if m.partition('/')[0] not in gone]
    return True


def _is_own(node: Any) -> bool:
    return isinstance(node, dict) and str(node.get('type')).startswith('mmkd.')


def _own_names(node: Any) -> set[str]:
    """Return the names of mmkd's classes in a config."""
    if isinstance(node, dict):
        found = {str(node['type'])} if _is_own(node) else set()
        return found.union(*map(_own_names, dict.values(node)))
    if isinstance(node, list | tuple):
        return set().union(*map(_own_names, node))
    return set()


def _make_plain(node: Any) -> None:
    """Replace mmkd's classes in a config by what does their work in the toolboxes, in place.

    That is what a class's `plain_config()` says: it returns what is added where it takes no
    argument, else, of the class's own arguments, the whole. A step of a pipeline whose class says
    `plain_config = None` is left out. Classes without it become their registered base class, with
    the arguments that the base class has.
    """
    if isinstance(node, dict):
        while node.get('type') in DATASET_WRAPPERS:
            inner = node.pop('dataset')
            node.clear()
            node.update(inner)
        if _is_own(node):
            _replace(node)
        for value in dict.values(node):
            _make_plain(value)
    elif isinstance(node, list | tuple):
        if isinstance(node, list):
            node[:] = [value for value in node if not _is_left_out(value)]
        for value in node:
            _make_plain(value)


def _is_left_out(node: Any) -> bool:
    return _is_own(node) and getattr(_own_class(node['type']), 'plain_config', '') is None


def _replace(node: dict[str, Any]) -> None:
    own = _own_class(node['type'])
    if own is None:
        return
    if hasattr(own, 'plain_config'):
        arguments = {key: value for key, value in node.items() if key not in ('type', '_scope_')}
        if inspect.signature(own.plain_config).parameters:
            node.clear()
            node.update(own.plain_config(**arguments))
            return
        for key, value in own.plain_config().items():
            node[key] = value if key == 'type' else arguments.get(key, value)
        for key in ('cache_prefix', 'cache_folder'):  # arguments of mmkd's data sets alone
            node.pop(key, None)
        return
    base = next(c for c in inspect.getmro(own) if c.__module__.split('.')[0] != 'mmkd')
    if not any(_class_in(r.parent, base.__name__) is base for r in REGISTRIES if r.parent):
        return
    parameters = inspect.signature(base).parameters
    if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        for key in set(node) - set(parameters) - {'type', '_scope_'}:
            node.pop(key)
    node['type'] = base.__name__


def _own_class(kind: str) -> type | None:
    return next((cls for r in REGISTRIES if (cls := _class_in(r, kind)) is not None), None)


def _class_in(registry: Registry, name: str) -> type | None:
    registry.import_from_location()
    bare = name.rpartition('.')[2]
    if isinstance(registry, mmkd.registry.LazyRegistry) and bare in registry.needs:
        return registry.get(bare)
    return registry.module_dict.get(bare)
