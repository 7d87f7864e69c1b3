"""A trained model from its checkpoint, ready to predict: members, the ensemble, or a plain one."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mmengine.config import Config
from mmengine.registry import DATASETS, MODELS, init_default_scope

from mmkd.apis.command_line import fit_inherited, import_toolbox, read_config
from mmkd.apis.exporting import config_beside
from mmkd.export import check_fit, inference_model, inference_state, member_specs
from mmkd.tasks import Task, task_of
from mmkd.utils.checkpoint import load_file, member_state
from mmkd.utils.checks import choose
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError


@dataclass
class Trained:
    """A model with its weights, in eval mode.

    Args:
        cfg: The config, of the training or of the export.
        model: An `OnlineDistiller` of the members that are needed, or a plain network.
        names: What it is to predict with: members, `ensemble`; of a plain network its name.
        metainfo: The data set's, with `classes`.
        task: What is specific to the task.
    """

    cfg: Config
    model: Any
    names: list[str]
    metainfo: dict[str, Any]
    task: Task

    @property
    def is_distiller(self) -> bool:
        """Whether it has members."""
        return hasattr(self.model, 'predict_members')


def load_trained(
    checkpoint: str | Path,
    config: str | Path | Config | None = None,
    members: Sequence[str] | Literal['all'] | None = None,
) -> Trained:
    """Load a checkpoint of a training, or an exported member or ensemble.

    Args:
        checkpoint: The file.
        config: Default: the config that stands beside it.
        members: What to predict with, of a checkpoint with members; `all`: the ensemble and every
            member that gives predictions. Default: the ensemble.

    Raises:
        ConfigError: If a file is missing or they do not fit together.
    """
    content = load_file(str(checkpoint), 'checkpoint')
    cfg = copy.deepcopy(_config_of(Path(checkpoint), content, config))
    fit_inherited(cfg)
    state = content.get('state_dict', content) if isinstance(content, dict) else {}
    meta = content.get('meta') if isinstance(content, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    import_toolbox(cfg)
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    together = isinstance(cfg.model.get('members'), dict)
    everything = together and members == 'all'
    if together:
        specs = member_specs(cfg)
        if everything:
            members = [*specs, 'ensemble']
        names = list(dict.fromkeys(members or ['ensemble']))
        for name in names:
            choose(name, [*specs, 'ensemble'], 'member')
        model_cfg = inference_model(cfg, names)
        weights = inference_state(cfg, state, model_cfg['members'])
    else:
        name = str(meta.get('member', 'model'))
        wanted = [name] if members in ('all', None) else members or [name]
        names = [choose(n, [name], 'member (of a plain checkpoint)') for n in wanted]
        model_cfg = copy.deepcopy(cfg.model)
        if cfg.get('data_preprocessor') is not None:  # as mmengine's Runner does
            model_cfg.setdefault('data_preprocessor', cfg.data_preprocessor)
        weights = member_state(content, name, 'checkpoint')
    with naming_keys(model_cfg, 'model'):
        model: Any = MODELS.build(model_cfg)
    check_fit(model.state_dict(), weights, str(checkpoint))
    model.load_state_dict(weights)
    task = getattr(model, 'task', None) or task_of({names[0]: model})
    if everything:
        networks = model.members.networks()
        names = [n for n in names if n == 'ensemble' or task.predicts(networks[n])]
    return Trained(cfg, model.eval(), names, _metainfo(cfg, meta), task)


def _config_of(checkpoint: Path, content: Any, config: str | Path | Config | None) -> Config:
    if isinstance(config, Config):
        return config
    if config is not None:
        return read_config(config)
    exported = checkpoint.with_suffix('.py')
    if exported.is_file():
        return read_config(exported)
    return config_beside(checkpoint, content)


def test_dataset(cfg: Config) -> dict[str, Any]:
    """Return the config of the test data set inside its wrappers."""
    dataset: Any = (cfg.get('test_dataloader') or {}).get('dataset') or {}
    while 'pipeline' not in dataset and ('dataset' in dataset or 'datasets' in dataset):
        dataset = dataset.get('dataset') or dataset['datasets'][0]
    if not dataset.get('pipeline'):
        raise ConfigError('test_dataloader.dataset.pipeline: the config has none')
    return dataset


def _metainfo(cfg: Config, meta: dict[str, Any]) -> dict[str, Any]:
    """Return the class names (and colors): the checkpoint's, the config's, the data set class's."""
    dataset = test_dataset(cfg)
    cls: Any = DATASETS.get(dataset['type']) if isinstance(dataset.get('type'), str) else None
    for found in (meta.get('dataset_meta'), dataset.get('metainfo'), getattr(cls, 'METAINFO', {})):
        named = {str(key).lower(): value for key, value in (found or {}).items()}
        if named.get('classes'):
            return named
    raise ConfigError(
        'no class names in the checkpoint (meta.dataset_meta) nor in the config: give '
        'test_dataloader.dataset.metainfo=dict(classes=(...))'
    )
