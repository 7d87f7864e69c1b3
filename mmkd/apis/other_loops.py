"""The step of one frozen teacher and one student, beside those of other software; classification.

The same two networks, preprocessed images, loss (cross-entropy and Hinton's, temperature 2) and
optimizer in mmkd, in a loop of a few lines, and, where it is installed, in torchdistill.
"""

from __future__ import annotations

import copy
import importlib.util
import logging
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd.apis.benchmark import Step, cached_batches, copy_batch, online_members, prepare
from mmkd.export import plain_config
from mmkd.utils.errors import ConfigError
from mmkd.utils.text import align

TAU = 2.0
WITHOUT_LINK = 'mmkd, the student alone'


def _preprocessed(network: Any, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    data = network.data_preprocessor(batch, True)
    return data['inputs'], torch.cat([sample.gt_label for sample in data['data_samples']])


class HandWritten:
    """A training step as one writes it.

    Args:
        teacher: Frozen, in eval mode.
        student: In training mode.
        optimizer: Its `type`, of `torch.optim`, and arguments.
        max_norm: At which the gradient is cut; None: nowhere.
    """

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        optimizer: Mapping[str, Any],
        max_norm: float | None,
    ) -> None:
        options = dict(optimizer)
        kind = getattr(torch.optim, options.pop('type'))
        self.teacher, self.student, self.max_norm = teacher, student, max_norm
        self.optimizer = kind(student.parameters(), **options)

    def __call__(self, batch: dict[str, Any]) -> None:
        """Take a step."""
        images, labels = _preprocessed(self.student, batch)
        with torch.no_grad():
            known = (self.teacher(images) / TAU).log_softmax(1)
        logits = self.student(images)
        loss = F.cross_entropy(logits, labels)
        soft = (logits / TAU).log_softmax(1)
        loss = loss + TAU**2 * F.kl_div(soft, known, reduction='batchmean', log_target=True)
        self.optimizer.zero_grad()
        loss.backward()
        if self.max_norm is not None:
            nn.utils.clip_grad_norm_(self.student.parameters(), self.max_norm)
        self.optimizer.step()


class Torchdistill:
    """The step of torchdistill's DistillationBox; arguments as `HandWritten`'s."""

    def __init__(
        self,
        teacher: nn.Module,
        student: nn.Module,
        optimizer: Mapping[str, Any],
        max_norm: float | None,
    ) -> None:
        from torchdistill.core.distillation import DistillationBox

        logging.getLogger('torchdistill').setLevel(logging.ERROR)
        options = dict(optimizer)
        kind = options.pop('type')
        loss: dict[str, Any] = dict(temperature=TAU, alpha=1.0, beta=1.0)
        for side in ('student', 'teacher'):
            loss.update({f'{side}_module_path': '.', f'{side}_module_io': 'output'})
        term = dict(criterion=dict(key='KDLoss', kwargs=loss), weight=1.0)
        config = dict(
            num_epochs=1,
            teacher=dict(requires_grad=False, forward_proc='forward_batch_only'),
            student=dict(forward_proc='forward_batch_only'),
            criterion=dict(key='WeightedSumLoss', kwargs=dict(sub_terms=dict(kd=term))),
            optimizer=dict(key=kind, kwargs=options, max_grad_norm=max_norm),
        )
        device = next(student.parameters()).device
        self.student = student
        self.box: Any = DistillationBox(teacher, student, {}, config, device, None, False, 1)
        self.box.teacher_model.eval()
        self.box.student_model.train()

    def __call__(self, batch: dict[str, Any]) -> None:
        """Take a step."""
        images, labels = _preprocessed(self.student, batch)
        loss = self.box.forward_process(images, labels, None)
        self.box.post_forward_process(loss=loss)


def _two_members(cfg: Config) -> tuple[str, str]:
    names = online_members(cfg)
    if cfg.get('default_scope') != 'mmpretrain' or len(names) < 2:
        raise ConfigError(
            '--others: expected a config of classifiers with two trained members or more, got '
            f'{names} in {cfg.get("default_scope")!r}'
        )
    teacher = 'teacher' if 'teacher' in names else names[0]
    return teacher, next(name for name in names if name != teacher)


def build_loops(cfg: Config, device: str) -> dict[str, Callable[[dict[str, Any]], Any]]:
    """Build what takes a step of each software, all from the same weights.

    Args:
        cfg: Of an OnlineDistiller of classifiers, see `prepare`.
        device: `cpu` or `cuda`.

    Raises:
        ConfigError: If the config is none of classifiers, or has one trained member alone.
    """
    teacher, student = _two_members(cfg)
    plain = {name: plain_config(cfg, name) for name in (teacher, student)}
    first: Any = MODELS.build(plain[teacher].model)
    first.init_weights()
    with tempfile.TemporaryDirectory() as folder:
        file = str(Path(folder) / 'teacher.pth')
        torch.save(dict(state_dict=first.state_dict()), file)
        members: dict[str, Any] = {
            name: None for name in cfg.model.members if name not in (teacher, student)
        }
        members[teacher] = dict(training='frozen', checkpoint=file)
        own = copy.deepcopy(cfg)
        own.merge_from_dict(dict(model=dict(members=members, ensemble=None, links=None)))
        own.model.sharing = dict(type='kd_p', tau=TAU, teacher=teacher, students=[student])
        joint, alone = Step(own, device), Step(plain[student], device)
    pair = [joint.model.network(name) for name in (teacher, student)]
    alone.model.load_state_dict(pair[1].state_dict())
    clip = (cfg.optim_wrapper.get('clip_grad') or {}).get('max_norm')
    loops: dict[str, Callable[[dict[str, Any]], Any]] = {'mmkd': joint, WITHOUT_LINK: alone}
    others: dict[str, Callable[..., Callable[[dict[str, Any]], Any]]] = {'by hand': HandWritten}
    if importlib.util.find_spec('torchdistill') is not None:
        others['torchdistill'] = Torchdistill
    for name, kind in others.items():
        networks = [MODELS.build(one.model).to(device) for one in plain.values()]
        for network, source in zip(networks, pair):
            network.load_state_dict(source.state_dict())
        networks[0].eval().requires_grad_(False)
        networks[1].train()
        loops[name] = kind(*networks, cfg.optim_wrapper.optimizer.to_dict(), clip)
    return loops


def compare_loops(
    config_file: str, options: Mapping[str, Any], steps: int, device: str
) -> dict[str, list[float]]:
    """Take steps of a config's teacher, frozen, with its first student, in turn.

    Args:
        config_file: Config of an OnlineDistiller of classifiers.
        options: `--cfg-options`.
        steps: Of each, after two that are not counted.
        device: `cpu` or `cuda`.

    Returns:
        The seconds of each step by software; on a CPU those of the process.

    Raises:
        ConfigError: If the config is none of classifiers, or has one trained member alone.
    """
    cfg = prepare(config_file, options)
    loops = build_loops(cfg, device)
    return _in_turn(loops, cached_batches(cfg, min(steps, 8)), steps, device)


def _in_turn(
    loops: Mapping[str, Callable[[dict[str, Any]], Any]],
    batches: list[dict[str, Any]],
    steps: int,
    device: str,
) -> dict[str, list[float]]:
    clock = time.process_time if device == 'cpu' else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in loops}
    for index in range(steps + 2):
        for name in (list(loops), list(loops)[::-1])[index % 2]:
            batch = copy_batch(batches[index % len(batches)])
            start = clock()
            loops[name](batch)
            if device != 'cpu':
                torch.cuda.synchronize()
            if index >= 2:  # the first ones allocate
                seconds[name].append(clock() - start)
    return seconds


def loops_table(seconds: Mapping[str, list[float]]) -> str:
    """Format the figures, with the ratio to mmkd's step."""
    median = {name: statistics.median(values) for name, values in seconds.items()}
    rows = [['a step of one frozen teacher and a student', 's', "mmkd's / this"]]
    rows += [[n, f'{value:.4f}', f'{median["mmkd"] / value:.3f}'] for n, value in median.items()]
    rest = '' if 'torchdistill' in seconds else '\ntorchdistill is not installed: left out'
    return f'{align(rows)}\n(medians of {len(seconds["mmkd"])} steps, in turn){rest}'
