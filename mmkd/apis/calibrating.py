"""Temperatures of members and the ensemble, fitted on the validation images."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.runner import Runner

from mmkd.apis.loading import Trained, load_trained
from mmkd.evaluation.calibration import expected_error, fit_platt, fit_temperature, odds_and_truth
from mmkd.evaluation.polyp_det_metric import PolypDetMetric
from mmkd.utils.config_errors import naming_keys
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.files import write_atomically
from mmkd.utils.text import align

PIXELS = 2000  # of an image, drawn at random: neighbors say the same
LEAST_SCORE = 0.1  # boxes below it are nearly all wrong, and would decide alone


@dataclass
class Fitted:
    """A temperature, and the expected calibration error without and with it.

    Args:
        temperature: Above 1 where the scores are too sure.
        before: In [0, 1].
        after: On the images that it was fitted on.
        count: How many images, pixels or boxes.
        platt: Of a detector slope and offset of its scores' log-odds.
        ap50: Of a detector its average precision at IoU 0.5, in percent.
        fused: Whether it is one of the ensemble's members.
    """

    temperature: float
    before: float
    after: float
    count: int
    platt: tuple[float, float] | None = None
    ap50: float | None = None
    fused: bool = False


def calibrate(
    checkpoint: str | Path,
    config: str | Path | Config | None = None,
    members: Sequence[str] | None = None,
) -> dict[str, Fitted]:
    """Fit a temperature for each member and the ensemble on the validation data.

    Classes: the negative log-likelihood of the labels; segmentation: of 2000 pixels an image;
    detection: of whether a box overlaps a polyp by half, for boxes with a score from 0.1 on.

    Args:
        checkpoint: Of a training, or of an exported member or ensemble.
        config: Default: the one beside it.
        members: Default: every member and the ensemble.

    Raises:
        ConfigError: If the config has no validation data, or nothing can be fitted on them.
    """
    trained = load_trained(checkpoint, config, members or 'all')
    found, precisions = _log_odds(trained)
    fitted = {name: _fitted(name, *values) for name, values in found.items()}
    for name, precision in precisions.items():
        fitted[name].platt, fitted[name].ap50 = fit_platt(*found[name]), precision
        fitted[name].fused = trained.is_distiller and name in trained.model.ensemble_members
    return fitted


def ensemble_options(fitted: Mapping[str, Fitted]) -> list[str]:
    """Return as command-line options what a detection ensemble takes of the members' figures.

    `calibration` is each one's slope and offset (Platt scaling). `weights` are their average
    precisions as shares of the best one's (mmkd's choice; Solovyev et al. leave them open).

    Args:
        fitted: Of members and the ensemble; those that it does not fuse are left out. Ensembles of
            classifiers and segmenters take neither: no options.
    """
    members = {name: one for name, one in fitted.items() if one.fused}
    best = max((one.ap50 or 0.0 for one in members.values()), default=0.0)
    if not members:
        return []
    calibration = {
        name: tuple(round(x, 4) for x in one.platt or ()) for name, one in members.items()
    }
    options = [f'model.ensemble.calibration={calibration}']
    if best > 0:
        weights = {name: round((one.ap50 or 0.0) / best, 4) for name, one in members.items()}
        options.append(f'model.ensemble.weights={weights}')
    return options


def _fitted(name: str, odds: np.ndarray, truth: np.ndarray) -> Fitted:
    if not len(odds):
        raise ConfigError(f'{name}: predicts no boxes with a score from {LEAST_SCORE} on')
    temperature = fit_temperature(odds, truth)
    errors = []
    for values in (odds, odds / temperature):
        if values.ndim == 1:
            probability = 1 / (1 + np.exp(-values))
            errors.append(expected_error(probability, truth))
        else:
            probability = torch.as_tensor(values).softmax(1).numpy()
            errors.append(expected_error(probability.max(1), probability.argmax(1) == truth))
    return Fitted(temperature, errors[0], errors[1], len(odds))


@torch.no_grad()
def _log_odds(
    trained: Trained,
) -> tuple[dict[str, tuple[np.ndarray, np.ndarray]], dict[str, float]]:
    """Return by name the log-odds and what is true of all validation images.

    The second are detectors' average precisions.
    """
    cfg, device = trained.cfg, get_device()
    model = trained.model.to(device)
    if cfg.get('val_dataloader') is None:
        raise ConfigError('val_dataloader: the config has no validation data to fit on')
    loader_cfg = cfg.val_dataloader.copy()
    loader_cfg.update(num_workers=0, persistent_workers=False)
    with naming_keys(cfg):
        loader = Runner.build_dataloader(loader_cfg)
    boxes = {name: _box_metric(cfg) for name in trained.names} if _finds_boxes(trained) else {}
    collected: dict[str, list[tuple[Any, Any]]] = {name: [] for name in trained.names}
    generator = torch.Generator().manual_seed(0)
    for batch in loader:
        if trained.is_distiller:
            samples = model.predict_members(batch, trained.names)
        else:
            samples = {trained.names[0]: model.test_step(batch)}
        for name in trained.names:
            rows = [sample.cpu().to_dict() for sample in samples[name]]
            if boxes:
                boxes[name].process(batch, rows)
                continue
            for row in rows:
                odds, truth = odds_and_truth(row)
                if 'seg_logits' in row:
                    chosen = torch.randperm(len(truth), generator=generator)[:PIXELS]
                    odds, truth = odds[chosen], truth[chosen]
                collected[name].append((odds.numpy(), truth.numpy()))
    precisions = {}
    for name, metric in boxes.items():
        precisions[name] = metric.compute_metrics(metric.results)['ap50']
        for result in metric.results:
            scores = result['scores'].clip(1e-6, 1 - 1e-6)
            sure = scores >= LEAST_SCORE
            odds, right = np.log(scores / (1 - scores)), result['overlap'] == 1
            collected[name].append((odds[sure], right[sure]))
    log_odds = {
        name: tuple(np.concatenate(column) for column in zip(*rows))
        for name, rows in collected.items()
    }
    return log_odds, precisions


def _finds_boxes(trained: Trained) -> bool:
    return type(trained.task).__name__ == 'DetectionTask'


def _box_metric(cfg: Config) -> PolypDetMetric:
    evaluators = cfg.get('val_evaluator') or []
    for metric in [evaluators] if isinstance(evaluators, dict) else evaluators:
        if metric.get('ann_file'):
            return PolypDetMetric(metric['ann_file'])
    raise ConfigError('val_evaluator: no metric with an ann_file, which has the true boxes')


def write_temperatures(fitted: Mapping[str, Fitted], out: str | Path) -> None:
    """Write the temperatures as JSON, for `tools/export_onnx.py --temperature`."""
    text = json.dumps({name: round(one.temperature, 4) for name, one in fitted.items()}, indent=2)
    with wrong_paths():
        write_atomically(out, lambda path: Path(path).write_text(f'{text}\n'))


def read_temperature(text: str, member: str) -> float:
    """Return a temperature from a number, or a member's from a file of `write_temperatures`."""
    try:
        value = float(text)
    except ValueError:
        try:
            value = float(json.loads(Path(text).read_text(encoding='utf-8'))[member])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f'--temperature: {text!r}: expected a number, or a file of tools/calibrate.py with '
                f'{member!r} ({type(error).__name__}: {error})'
            ) from error
    if not 0 < value < float('inf'):
        raise ConfigError(f'--temperature: expected a number above 0, got {value}')
    return value


def temperature_table(fitted: Mapping[str, Fitted]) -> str:
    """Format what was fitted as a text table; errors in percent."""
    rows = [['member', 'temperature', 'ECE before', 'ECE after', 'of']]
    rows += [
        [
            name,
            f'{one.temperature:.3f}',
            f'{100 * one.before:.2f}',
            f'{100 * one.after:.2f}',
            str(one.count),
        ]
        for name, one in fitted.items()
    ]
    return align(rows)
