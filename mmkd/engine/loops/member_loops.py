import copy
import itertools
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import Runner, TestLoop, ValLoop
from mmengine.runner.amp import autocast
from mmengine.structures import PixelData
from torch import Tensor
from torch.utils.data import DataLoader

from mmkd.evaluation.agreement import Agreement
from mmkd.evaluation.evaluator_config import evaluator_config_of
from mmkd.evaluation.quick_metrics import count_quickly
from mmkd.models.ensembles import SegmentationEnsemble
from mmkd.registry import LOOPS
from mmkd.utils.checks import choose
from mmkd.utils.distributed import share_buffers
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.model import distiller_of
from mmkd.utils.test_sets import NUMBER, SET

from .batch_stream import loader_config
from .data_checks import check_data
from .loader_workers import keep_workers


def check_images(evaluator: Evaluator, dataset: Any, key: str) -> None:
    """Raise a ConfigError if a metric's annotation file is one of other images than the data set's.

    Predictions are compared with annotations by the image's number, which other sets have, too.

    Args:
        evaluator: Its metrics that read a COCO file are checked.
        dataset: The data that it evaluates.
        key: The evaluator's, for messages.
    """
    for metric in evaluator.metrics:
        listed = getattr(getattr(metric, '_coco_api', None), 'imgs', None)
        if not listed or not hasattr(dataset, 'get_data_info'):
            continue
        if len(listed) != len(dataset):
            raise ConfigError(
                f'{key}.ann_file: it is of other images than the data set: it lists {len(listed)}, '
                f'the data set has {len(dataset)}'
            )
        for index in range(len(dataset)):
            info = dataset.get_data_info(index)
            name, number = Path(info['img_path']).name, info.get('img_id')
            # LVIS's files have addresses in place of names.
            found = listed[number].get('file_name', name) if number in listed else None
            if found is None or Path(found).name != name:
                raise ConfigError(
                    f'{key}.ann_file: it is of other images than the data set: number {number} is '
                    f'{name!r} in the data and {found!r} in the file'
                )


def _coco_keys(evaluators: Iterable[Evaluator]) -> list[str]:
    """Return what mmdet's CocoMetrics give where there is any detection: no member may have one."""
    return [
        f'{metric.prefix}/{kind}_mAP{part}'
        for evaluator in evaluators
        for metric in evaluator.metrics
        if type(metric).__name__ == 'CocoMetric'
        for kind in metric.metrics
        if kind in ('bbox', 'segm') and not metric.metric_items and not metric.format_only
        for part in ('', '_50', '_75', '_s', '_m', '_l')
    ]


class _MemberLoop:
    """One pass over the data that evaluates members and ensemble with the config's evaluator."""

    mode: str
    runner: Runner
    dataloader: DataLoader
    fp16: bool

    def __init__(
        self,
        runner: Runner,
        dataloader: DataLoader | dict[str, Any],
        evaluator: Evaluator | dict[str, Any] | list[Any],
        fp16: bool = False,
        members: Sequence[str] | None = None,
    ) -> None:
        model = distiller_of(runner.model)
        if not hasattr(model, 'predict_members'):
            raise ConfigError(
                f'{self.mode}_cfg.type: {type(self).__name__} is for an OnlineDistiller, got a '
                f'{type(model).__name__}'
            )
        self.names = list(members or model.evaluated)
        for name in self.names:
            choose(name, model.evaluated, f'{self.mode}_cfg.members')
        silent = [name for name in model.specs if name not in model.evaluated]
        if silent:
            print_log(f'Not evaluated, without predictions: {", ".join(silent)}', logger='current')
        if isinstance(evaluator, Evaluator):
            self.evaluators = {name: copy.deepcopy(evaluator) for name in self.names}
        else:
            self.evaluators = {
                name: runner.build_evaluator(evaluator_config_of(evaluator, name))
                for name in self.names
            }
        first = next(iter(self.evaluators.values()))
        with wrong_paths(f'{self.mode}_dataloader.dataset'):
            super().__init__(  # type: ignore[call-arg]
                runner, loader_config(dataloader), first, fp16
            )
        keep_workers(self.dataloader)
        check_images(first, self.dataloader.dataset, f'{self.mode}_evaluator')
        # An iterator draws its workers' seed: not from the stream that the training draws from.
        self.dataloader.generator = torch.Generator()
        check_data(runner.model, self.dataloader.dataset, f'{self.mode}_dataloader', self.names)
        for one in self.evaluators.values():
            for metric in one.metrics:
                count_quickly(metric)
            one.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)

    def run(self) -> dict[str, Any]:
        """Evaluate once; return the metrics of all."""
        self.runner.call_hook(f'before_{self.mode}')
        self.runner.call_hook(f'before_{self.mode}_epoch')
        self.runner.model.eval()
        share_buffers(self.runner.model)  # what is measured is what a checkpoint holds
        self.agreement = Agreement()
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        results = {}
        size = len(self.dataloader.dataset)  # type: ignore[arg-type]
        for name, evaluator in self.evaluators.items():
            print_log(f'Evaluating {name}', logger='current')
            results[name] = evaluator.evaluate(size)
        # CocoMetric gives nothing for a member without any detection; `save_best` needs its key.
        keys = list(dict.fromkeys(key for result in results.values() for key in result))
        keys = list(dict.fromkeys([*keys, *_coco_keys(self.evaluators.values())]))
        for name, result in results.items():
            missing = [key for key in keys if key not in result]
            if missing:
                print_log(
                    f'{name} predicted nothing of the kind: {", ".join(missing)} count as 0',
                    logger='current',
                    level=30,
                )
                result.update(dict.fromkeys(missing, 0.0))
        if keys and self.agreement.results:
            results['ensemble'].update(self.agreement.evaluate(size))
        metrics = {
            f'{name}/{key}': value
            for name, result in results.items()
            for key, value in result.items()
        }
        self.runner.call_hook(f'after_{self.mode}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.mode}')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Evaluate one batch."""
        self.runner.call_hook(f'before_{self.mode}_iter', batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            predictions = self.predict(data_batch)
        for name, evaluator in self.evaluators.items():
            evaluator.process(data_samples=predictions[name], data_batch=data_batch)
        if 'ensemble' in predictions:
            self._compare(predictions, data_batch)
        self.runner.call_hook(
            f'after_{self.mode}_iter',
            batch_idx=idx,
            data_batch=data_batch,
            outputs=predictions[self.names[-1]],
        )

    def _compare(self, predictions: dict[str, list[Any]], data_batch: dict[str, Any]) -> None:
        """Note how far the ensemble's members agree on each image of a batch."""
        distiller = distiller_of(self.runner.model)
        members = [predictions[n] for n in distiller.ensemble_members if n in predictions]
        pairs = itertools.combinations(members, 2)
        found = [[distiller.ensemble.agreement(*both) for both in zip(*pair)] for pair in pairs]
        images = [statistics.fmean(each) for each in zip(*found) if None not in each]
        self.agreement.process(data_batch, images)

    def predict(self, data_batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Return predictions by name; under test-time augmentation the toolbox's model merges."""
        model, distiller = self.runner.model, distiller_of(self.runner.model)
        tta = model.module if is_model_wrapper(model) else model
        if not isinstance(tta, BaseTTAModel):
            return distiller.predict_members(data_batch, self.names)
        views = [
            distiller.predict_members(
                {key: value[i] for key, value in data_batch.items()}, self.names
            )
            for i in range(len(next(iter(data_batch.values()))))
        ]
        merged = {}
        try:
            for name in self.names:
                # mmseg's merging asks its network for channels and threshold.
                own = name if name in distiller.specs else distiller.ensemble_members[0]
                tta.module = distiller.network(own)
                rows = list(zip(*(view[name] for view in views)))
                scores = [_mean_scores(row) for row in rows]  # before mmseg merges in place
                merged[name] = tta.merge_preds(rows)
                for sample, row, score in zip(merged[name], rows, scores):
                    known = {key: row[0].get(key) for key in (SET, NUMBER) if key in row[0]}
                    sample.set_metainfo(known)  # mmseg's merging keeps the path alone
                    if score is not None:  # and the last view's scores
                        sample.set_data(dict(seg_logits=PixelData(data=score)))
        finally:
            tta.module = distiller
        return merged


def _mean_scores(views: Sequence[Any]) -> Tensor | None:
    """Return a segmenter's scores of an image as the mean of its views' probabilities."""
    if 'seg_logits' not in views[0]:
        return None
    mean: Tensor = SegmentationEnsemble()([view.seg_logits.data for view in views])
    return mean


@LOOPS.register_module()
class MemberValLoop(_MemberLoop, ValLoop):
    """Validation of every member and the ensemble in one pass, with the config's own evaluator.

    Metrics are prefixed: `student1/coco/bbox_mAP`, `ensemble/coco/bbox_mAP`. `ensemble/agreement`
    says how far its members agree, in percent (`Ensemble.agreement`). Hooks see the last one's
    predictions (the ensemble's, if evaluated) as the outputs.

    Args:
        runner: The Runner.
        dataloader: Loader of the data, or its config.
        evaluator: The evaluator, or its config; each member gets one of its own.
        fp16: Predict under autocast. Default: False.
        members: What to evaluate. Default: every member and `ensemble`.
    """

    mode = 'val'


@LOOPS.register_module()
class MemberTestLoop(_MemberLoop, TestLoop):
    """Test of every member and the ensemble in one pass; arguments as `MemberValLoop`."""

    mode = 'test'
