"""The stage before a training: the members that `pretrain` names are trained first, then frozen."""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, is_main_process
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope

from mmkd.apis.command_line import check_optimizers, load_config, merge_options
from mmkd.engine.loops.batch_stream import seeded
from mmkd.engine.loops.data_checks import check_data, check_unlabeled_given
from mmkd.export.plain import OF_SEVERAL
from mmkd.utils.checkpoint import only_weights
from mmkd.utils.checks import check_arguments, choose
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.files import write_atomically
from mmkd.utils.locks import try_lock, wait_for_lock

RECORD = 'pretrained.json'
NOTE = 'pretrain_preempted'  # in the work folder: the stage's checkpoint, as in last_checkpoint
# What belongs to one run or to a test, and leaves a training what it is.
OF_A_RUN = (
    'test_dataloader',
    'test_evaluator',
    'test_cfg',
    'tta_model',
    'tta_pipeline',
    'work_dir',
    'launcher',
    'resume',
    'experiment_name',
    'visualizer',
    'log_level',
    'env_cfg',
    'model_wrapper_cfg',
)


class Pretraining:
    """What `pretrain` in a config says: a training of some members before the one of the config.

    `tools/train.py` runs it first, in a work folder of its own, and then the config's training,
    in which these members are frozen. What is finished is not trained again as long as its config
    and its checkpoints are as they were; what was broken off goes on with `--resume`.

    Args:
        cfg: The whole config; it is not changed.
        members: Whom it trains: a member's name or several.
        config: File of the training's config, one of mmkd's or of a toolbox (then for one member).
            It may have a `pretrain` of its own. Default: the same config with these members alone,
            without links and unlabeled images.
        options: By dotted key, values that replace those of that config.
        use: The checkpoint that is taken over: the `last`, or each member's `best` by the
            validation (`BestMemberHook`). Default: `last`.
        work_dir: Folder of the stage; several configs may share one. Default:
            `<work_dir>/pretrain`.

    Raises:
        ConfigError: For unknown names, members that have a finished network already, and a folder
            that holds another training.
    """

    def __init__(
        self,
        cfg: Config,
        members: str | Sequence[str],
        config: str | None = None,
        options: Mapping[str, Any] | None = None,
        use: str = 'last',
        work_dir: str | None = None,
    ) -> None:
        present = cfg.model.get('members')
        if not isinstance(present, dict):
            raise ConfigError('pretrain: is for an OnlineDistiller, which has members')
        self.members = [members] if isinstance(members, str) else list(members)
        if not self.members:
            raise ConfigError('pretrain.members: expected a name or more, got none')
        for name in self.members:
            choose(name, present_of(cfg), 'pretrain.members')
            if present[name].get('training', 'frozen') not in ('online', 'frozen'):
                raise ConfigError(f'pretrain.members: {name!r} is {present[name].training}')
            if present[name].get('training') == 'frozen' and present[name].get('checkpoint'):
                raise ConfigError(
                    f'model.members.{name}.checkpoint: {name!r} has one already, and pretrain '
                    'trains it; drop one of the two'
                )
        self.use = choose(use, ('last', 'best'), 'pretrain.use')
        if not isinstance(options or {}, Mapping):
            raise ConfigError(f'pretrain.options: expected a dict, got {options!r}')
        self.folder = Path(work_dir or Path(cfg.work_dir) / 'pretrain')
        if config is None:
            self.cfg = merge_options(self._of_members(cfg), options or {})
            self.cfg.work_dir = str(self.folder)
        else:
            run = dict(cfg_options=dict(options or {}), launcher=cfg.launcher, local_rank=0)
            self.cfg = load_config(config, argparse.Namespace(work_dir=str(self.folder), **run))
        self._check_stage()
        # mmengine keeps loggers, message hubs and visualizers by name in a process.
        self.cfg.experiment_name = f'pretrain_{"_".join(self.members)}'
        if self.cfg.get('visualizer') is not None:
            self.cfg.visualizer = dict(self.cfg.visualizer, name=self.cfg.experiment_name)
        values = {k: v for k, v in self.cfg.to_dict().items() if k not in OF_A_RUN}
        self.digest = _sha256(json.dumps(values, sort_keys=True, default=repr).encode())

    @classmethod
    def of(cls, cfg: Config) -> Pretraining | None:
        """Return what a config's `pretrain` says, None without one."""
        given = cfg.get('pretrain')
        if given is None:
            return None
        if not isinstance(given, Mapping):
            raise ConfigError(f"pretrain: expected a dict with 'members', got {given!r}")
        check_arguments(cls.__init__, given, 'pretrain', given=('cfg',))
        return cls(cfg, **given)

    def _of_members(self, cfg: Config) -> Config:
        """Return the config's training with the stage's members alone."""
        stage = copy.deepcopy(cfg)
        for key in ('pretrain', 'unlabeled_dataloader'):
            stage.pop(key, None)
        stage.load_from, stage.resume = None, False
        for key in OF_SEVERAL:
            stage.model.pop(key, None)
        for hook in stage.get('custom_hooks') or ():
            if hook.get('type') == 'mmkd.StudyResultHook':
                hook.expected = []  # a study asks for metrics of the members in the end
        stage.model.members = {name: cfg.model.members[name] for name in self.members}
        for member in stage.model.members.values():
            member.pop('training', None)
        stage.model.ensemble = dict(stage.model.get('ensemble') or {}, members=self.members)
        checkpoint: Any = (stage.get('default_hooks') or {}).get('checkpoint') or {}
        best = checkpoint.get('save_best')
        if isinstance(best, str) and best.partition('/')[0] in present_of(cfg):
            checkpoint.save_best = f'ensemble/{best.partition("/")[2]}'
        own = (stage.get('optim_wrapper') or {}).get('members') or {}
        if own:
            stage.optim_wrapper.members = {n: own[n] for n in self.members if n in own}
        return stage

    def _check_stage(self) -> None:
        trained = self.cfg.model.get('members')
        if trained is None and len(self.members) > 1:
            raise ConfigError(
                f'pretrain.config: it trains one network, not the members {self.members}'
            )
        for name in self.members if trained is not None else ():
            choose(name, present_of(self.cfg), 'pretrain.members')
            if trained[name].get('training') == 'frozen':
                raise ConfigError(f'pretrain.config: {name!r} is frozen there, and not trained')
        if trained is None and self.use == 'best':
            raise ConfigError("pretrain.use: 'best' needs a config of mmkd's, with BestMemberHook")

    # ---------------------------------------------------------------- what comes after it

    def check_next(self, cfg: Config) -> None:
        """Build what the training after the stage needs, as far as that is quick, and drop it.

        The model, with untrained networks in place of the stage's members and the start weights of
        the others, the optimizers, and the data set of the unlabeled images, which the stage does
        not have: a wrong config ends before the stage is trained. Random streams are left as they
        were.

        Args:
            cfg: The whole config; it is not changed.

        Raises:
            ConfigError: For whatever is wrong with them.
        """
        cfg = copy.deepcopy(cfg)
        with tempfile.TemporaryDirectory() as folder, seeded(0), _quietly():
            self._stand_in(cfg, folder)
            try:
                _build_next(cfg)
            except ConfigError as error:
                text = re.sub(rf"'{re.escape(folder)}[^']*'", 'what pretrain trains', str(error))
                names = ', '.join(self.members)
                raise ConfigError(
                    f'{text} (in the training after pretrain, with {names} frozen)'
                ) from error

    def _stand_in(self, cfg: Config, folder: str) -> None:
        """Freeze the members in `cfg`, in place, as the networks that the stage would start with.

        Args:
            cfg: The whole config.
            folder: Where their checkpoint is written.
        """
        before, own = Pretraining.of(self.cfg), copy.deepcopy(self.cfg)
        if before is not None:
            before._stand_in(own, folder)
        path = os.path.join(folder, f'{len(os.listdir(folder))}.pth')
        torch.save(dict(state_dict=_built(own).state_dict()), path)
        self.freeze(cfg, dict.fromkeys(self.members, path))

    # ---------------------------------------------------------------- what is trained already

    def checkpoints(self) -> dict[str, str] | None:
        """Return the members' checkpoints; None unless the stage is finished.

        Raises:
            ConfigError: If the folder holds another training, or a checkpoint has changed.
        """
        file = self.folder / RECORD
        if not file.is_file():
            return None
        try:
            record = json.loads(file.read_text())
            digest, found = record['config'], record['checkpoints']
        except (ValueError, KeyError, TypeError) as error:
            raise ConfigError(f'pretrain: {file} is damaged ({error}); remove it') from error
        elsewhere = f'remove {self.folder} to train again, or name another pretrain.work_dir'
        if digest != self.digest:
            raise ConfigError(f'pretrain: {self.folder} was trained by another config; {elsewhere}')
        if found is None:
            return None
        for path, content in found.values():
            if not (self.folder / path).is_file() or _sha256_of(self.folder / path) != content:
                raise ConfigError(
                    f'pretrain: {self.folder / path} is not what the training has written; '
                    f'{elsewhere}'
                )
        if not set(self.members) <= set(found):
            return None
        return {name: os.path.normpath(self.folder / found[name][0]) for name in self.members}

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until no other process of this machine trains in the folder; keep others out."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path, held = self.folder / 'lock', None
        try:
            held = try_lock(path)
            if held is None:
                print(f'pretrain: another process trains in {self.folder}; waiting for it')
                held = wait_for_lock(path)
        except OSError as error:
            print(f'pretrain: {self.folder} takes no locks ({error}); let no other train there')
        with held or nullcontext():
            yield

    def begin(self) -> None:
        """Note which config the folder is for."""
        self._write(None)

    @contextmanager
    def preempted_noted(self, work_dir: str) -> Iterator[None]:
        """Where `PreemptionHook` ends the stage, note its checkpoint in the next one's folder.

        `tools/slurm_job.sh` looks there, as the stage's own may be anywhere.
        """
        try:
            yield
        except SystemExit:
            last = self.folder / 'last_checkpoint'
            if is_main_process() and last.is_file():
                text = last.read_text()
                Path(work_dir).mkdir(parents=True, exist_ok=True)
                write_atomically(Path(work_dir) / NOTE, lambda path: Path(path).write_text(text))
            raise

    def finish(self, last: str | None) -> None:
        """Note the checkpoints.

        Args:
            last: The training's last one.

        Raises:
            ConfigError: If the training has left none.
        """
        if is_main_process():
            self._write({name: self._result(name, last) for name in self.members})
        barrier()

    def _result(self, name: str, last: str | None) -> tuple[str, str]:
        best = str(self.folder / 'best_members' / f'{name}.pth')
        path = last if self.use == 'last' else best
        if path is None or not Path(path).is_file():
            raise ConfigError(
                f'pretrain: the training has left no {self.use} checkpoint of {name!r} in '
                f'{self.folder}'
            )
        return os.path.relpath(path, self.folder), _sha256_of(Path(path))

    def _write(self, checkpoints: Any) -> None:
        if is_main_process():
            text = json.dumps(dict(config=self.digest, checkpoints=checkpoints), indent=1)
            write_atomically(self.folder / RECORD, lambda path: Path(path).write_text(text))

    def freeze(self, cfg: Config, checkpoints: Mapping[str, str]) -> None:
        """Let a config's members be the frozen networks of their checkpoints, in place."""
        for name, path in checkpoints.items():
            cfg.model.members[name].update(training='frozen', checkpoint=path)
        own = (cfg.get('optim_wrapper') or {}).get('members') or {}
        for name in set(own) & set(checkpoints):
            own.pop(name)
        cfg.pop('pretrain')


def freeze_pretrained(cfg: Config, checkpoint: str) -> None:
    """Freeze the members that `pretrain` names, for a tool that does not train, in place.

    Args:
        cfg: The whole config.
        checkpoint: The training's, beside which the stage's folder is looked for first: the tool
            may have a work folder of its own.

    Raises:
        ConfigError: If they are not trained yet.
    """
    stage = Pretraining.of(cfg)
    if stage is None:
        return
    beside = Path(checkpoint).parent / 'pretrain'
    if not cfg.pretrain.get('work_dir') and (beside / RECORD).is_file():
        stage.folder = beside
    found = stage.checkpoints()
    if found is None:
        raise ConfigError(
            f'pretrain: {", ".join(stage.members)}: not trained yet in {stage.folder}; '
            'tools/train.py trains them'
        )
    stage.freeze(cfg, found)


def _built(cfg: Config) -> Any:
    """Build a config's model as mmengine's Runner does."""
    if cfg.get('data_preprocessor') is not None:
        cfg.model.setdefault('data_preprocessor', cfg.data_preprocessor)
    scope = cfg.get('default_scope')
    with DefaultScope.overwrite_default_scope(scope), only_weights(), naming_keys(cfg):
        return MODELS.build(cfg.model)


def _build_next(cfg: Config) -> None:
    """Build what a training of members some of which are frozen needs, see `check_next`."""
    model = _built(cfg)
    check_optimizers(cfg)
    with naming_keys(cfg), only_weights():
        model.init_weights()
        if cfg.launcher == 'none':  # else some optimizers need the processes' connection
            build_optim_wrapper(model, copy.deepcopy(cfg.optim_wrapper))
    key = 'unlabeled_dataloader'
    loader: Any = (cfg.get('train_cfg') or {}).get(key, cfg.get(key))
    check_unlabeled_given(model, loader is not None)
    if isinstance(loader, dict) and isinstance(loader.get('dataset'), dict):
        with (
            DefaultScope.overwrite_default_scope(cfg.get('default_scope')),
            naming_keys(cfg),
            wrong_paths(f'{key}.dataset'),
        ):
            dataset = DATASETS.build(loader['dataset'])
        check_data(model, dataset, key)


@contextmanager
def _quietly() -> Iterator[None]:
    """Keep back what a build logs, as it is built again."""
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def present_of(cfg: Config) -> list[str]:
    """Return the names of a config's members; None drops an inherited one."""
    return [name for name, member in cfg.model.members.items() if member is not None]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
