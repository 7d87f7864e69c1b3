from __future__ import annotations

import inspect
from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.evaluator.metric import _to_cpu
from mmengine.logging import print_log
from mmengine.registry import METRICS
from mmengine.structures import BaseDataElement

from mmkd.registry import EVALUATOR
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.test_sets import GAP, NUMBER, SEEN, SET, UNSEEN

from .evaluator_config import evaluator_config_of
from .quick_metrics import count_quickly


@EVALUATOR.register_module()
class SeenUnseenEvaluator(Evaluator):
    """Measures each set of a `mmkd.SeenUnseen` by itself, and the generalization gap.

    For each figure that a metric gives there are

    - `<set>/<figure>`, of each set,
    - `seen/<figure>` and `unseen/<figure>`, the mean over the sets of a kind, each of which counts
      the same however many images it has (mmkd's choice). A set that has no such figure, NaN or
      COCO's -1, is left out of the mean,
    - `gap/<figure>`, seen minus unseen: above 0 where the model is worse on unseen sets (of figures
      that are better when greater).

    `mmkd.MemberLogProcessor` and `tools/test.py` print a table of them for each figure, with a row
    for each member and the ensemble. A metric's files get the set's name.

    mmdet's `MultiDatasetsEvaluator` is alike; it takes one metric for each set, which must bear the
    images of the other ones, and has no gap.

    Args:
        metrics: Config of the metrics, one or a list. Each set gets its own; a metric that takes an
            `ann_file` gets that of the set.
        figures: Names of the figures to keep, with the metric's prefix: `['polyp/f1']`. Default:
            all.

    Raises:
        ConfigError: If a metric has an `ann_file`, or the data set is no `mmkd.SeenUnseen`; while
            evaluating, if a figure is not measured.
    """

    _dataset_meta: dict[str, Any] | None

    def __init__(
        self,
        metrics: dict[str, Any] | Sequence[dict[str, Any]],
        figures: Sequence[str] | None = None,
    ) -> None:
        super().__init__([])
        self.configs = [metrics] if isinstance(metrics, dict) else list(metrics)
        for cfg in self.configs:
            if not isinstance(cfg, dict):
                raise ConfigError(
                    f'SeenUnseenEvaluator.metrics: expected configs of metrics, got {cfg!r}'
                )
            if cfg.get('ann_file') is not None:
                raise ConfigError(
                    f'SeenUnseenEvaluator.metrics: leave out the ann_file of {cfg.get("type")}: '
                    'each set has its own'
                )
        if isinstance(figures, str):
            raise ConfigError(
                f'SeenUnseenEvaluator.figures: expected a list of names, got {figures!r}'
            )
        self.figures = figures
        self.sets: dict[str, dict[str, Any]] = {}
        self.metrics_of: dict[str, list[BaseMetric]] = {}
        # By set and metric the results of each image, by its number: an image that several
        # processes have measured, to fill up the last batch, counts once.
        self.results: dict[str, list[dict[int, list[Any]]]] = {}

    @property
    def dataset_meta(self) -> dict[str, Any] | None:
        """The data set's meta information, `sets` among it, from which the metrics are built."""
        return self._dataset_meta

    @dataset_meta.setter
    def dataset_meta(self, dataset_meta: dict[str, Any] | None) -> None:
        if dataset_meta == self._dataset_meta and self.sets:
            return
        sets = (dataset_meta or {}).get('sets')
        if not sets:
            raise ConfigError(
                "SeenUnseenEvaluator: its loader's dataset must be of type='mmkd.SeenUnseen'"
            )
        self._dataset_meta, self.sets = dataset_meta, sets
        for name, info in sets.items():
            self.metrics_of[name] = [self._build(cfg, name, info) for cfg in self.configs]
            self.results[name] = [{} for _ in self.configs]

    def _build(self, cfg: dict[str, Any], name: str, info: dict[str, Any]) -> BaseMetric:
        own = evaluator_config_of(cfg, name)
        cls = METRICS.get(own['type']) if isinstance(own.get('type'), str) else None
        if cls is not None and 'ann_file' in inspect.signature(cls).parameters:
            own['ann_file'] = info['ann_file']
        metric = METRICS.build(own)
        metric.dataset_meta = self._dataset_meta
        count_quickly(metric)
        return metric

    def process(self, data_samples: Sequence[Any], data_batch: Any | None = None) -> None:
        """Let the metrics of each sample's set measure it."""
        for sample in data_samples:
            values = sample.to_dict() if isinstance(sample, BaseDataElement) else sample
            if values.get(SET) not in self.sets:
                raise ConfigError(
                    f'SeenUnseenEvaluator: a prediction of {values.get("img_path")} does not say '
                    f"which set it is of; its loader's dataset must be of type='mmkd.SeenUnseen'"
                )
            name = values[SET]
            for metric, results in zip(self.metrics_of[name], self.results[name]):
                metric.process(data_batch, [values])
                results[values[NUMBER]] = _to_cpu(metric.results)
                metric.results = []

    def evaluate(self, size: int) -> dict[str, Any]:
        """Return the figures of each set, their means and gaps; see the class.

        Args:
            size: Number of images.
        """
        parts = all_gather_object(self.results)
        self.results = {name: [{} for _ in self.configs] for name in self.sets}
        figures = [self._figures(parts) if is_main_process() else None]
        broadcast_object_list(figures)
        assert figures[0] is not None, 'the main process has sent them'
        return figures[0]

    def _figures(self, parts: list[dict[str, list[dict[int, list[Any]]]]]) -> dict[str, Any]:
        found: dict[str, dict[str, Any]] = {}
        for name, metrics in self.metrics_of.items():
            found[name] = {}
            print_log(f'Set {name}', logger='current')  # metrics log tables of their own
            for i, metric in enumerate(metrics):
                images: dict[int, list[Any]] = {}
                for part in parts:
                    images.update(part[name][i])
                results = [one for number in sorted(images) for one in images[number]]
                prefix = f'{metric.prefix}/' if metric.prefix else ''
                for key, value in metric.compute_metrics(results).items():
                    found[name][f'{prefix}{key}'] = value
        return self._with_gaps(found)

    def _with_gaps(self, found: dict[str, dict[str, Any]]) -> dict[str, Any]:
        keys = list(dict.fromkeys(key for values in found.values() for key in values))
        if keys and self.figures is not None:
            keys = [choose(key, keys, 'SeenUnseenEvaluator.figures') for key in self.figures]
        for name, values in found.items():
            missing = [key for key in keys if key not in values]
            if missing:  # CocoMetric without any detection
                print_log(f'{name}: {", ".join(missing)} count as 0', logger='current', level=30)
                values.update(dict.fromkeys(missing, 0.0))
        figures = {f'{name}/{key}': found[name][key] for name in found for key in keys}
        numbers = [k for k in keys if all(isinstance(values[k], Real) for values in found.values())]
        means = {
            kind: {
                key: _mean([found[n][key] for n, one in self.sets.items() if one['seen'] is seen])
                for key in numbers
            }
            for kind, seen in ((SEEN, True), (UNSEEN, False))
        }
        means[GAP] = {key: means[SEEN][key] - means[UNSEEN][key] for key in numbers}
        for kind, values in means.items():
            figures.update({f'{kind}/{key}': value for key, value in values.items()})
        return figures


def _mean(values: list[Any]) -> float:
    """Return the mean of those that were measured; no figure is negative but COCO's -1."""
    measured = [float(value) for value in values if value >= 0]
    return float(np.mean(measured)) if measured else float('nan')
