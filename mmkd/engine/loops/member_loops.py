import copy
from pathlib import Path

import torch
from mmengine.evaluator import Evaluator
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import TestLoop, ValLoop
from mmengine.runner.amp import autocast

from mmkd.registry import LOOPS
from mmkd.utils.checks import choose
from mmkd.utils.distributed import share_buffers

# Arguments of metrics that name files: each member's gets the member's name.
FILE_ARGUMENTS = ('outfile_prefix', 'out_file_path', 'output_dir')


def evaluator_config_of(evaluator, name):
    """Return the config's evaluator for one member: the same metrics, its files named by the member."""
    if isinstance(evaluator, (list, tuple)):
        return [evaluator_config_of(metric, name) for metric in evaluator]
    cfg = copy.deepcopy(evaluator)
    for key in FILE_ARGUMENTS:
        if isinstance(cfg.get(key), str):
            path = Path(cfg[key])
            cfg[key] = str(path.with_name(f'{path.stem}_{name}{path.suffix}'))
    return cfg


class _MemberLoop:
    """One pass over the data that evaluates every member and the ensemble with the config's own evaluator.

    Metrics are prefixed: `student1/coco/bbox_mAP`, `ensemble/coco/bbox_mAP`. Hooks see the last one's predictions (the
    ensemble's, if evaluated) as the outputs.

    Args:
        members (list[str], optional): What to evaluate. Default: every member and `ensemble`.
    """

    def __init__(self, runner, dataloader, evaluator, fp16=False, members=None):
        model = _distiller(runner.model)
        if not hasattr(model, 'predict_members'):
            raise TypeError(
                f'{type(self).__name__} is for an OnlineDistiller, got {type(model).__name__}'
            )
        self.names = list(members or model.evaluated)
        for name in self.names:
            choose(name, model.evaluated, f'{type(self).__name__}.members')
        if isinstance(evaluator, Evaluator):
            self.evaluators = {name: copy.deepcopy(evaluator) for name in self.names}
        else:
            self.evaluators = {
                name: runner.build_evaluator(evaluator_config_of(evaluator, name))
                for name in self.names
            }
        super().__init__(runner, dataloader, next(iter(self.evaluators.values())), fp16)
        for evaluator in self.evaluators.values():
            evaluator.dataset_meta = getattr(self.dataloader.dataset, 'metainfo', None)

    def run(self):
        """Evaluate once; return the metrics of all."""
        self.runner.call_hook(f'before_{self.mode}')
        self.runner.call_hook(f'before_{self.mode}_epoch')
        self.runner.model.eval()
        share_buffers(self.runner.model)  # what is measured is what a checkpoint holds
        for idx, data_batch in enumerate(self.dataloader):
            self.run_iter(idx, data_batch)
        results = {}
        for name, evaluator in self.evaluators.items():
            print_log(f'Evaluating {name}', logger='current')
            results[name] = evaluator.evaluate(len(self.dataloader.dataset))
        # mmdet's CocoMetric gives nothing for a member without any detection; `save_best` needs its key all the same.
        keys = {key for result in results.values() for key in result}
        for name, result in results.items():
            if keys and not result:
                print_log(
                    f'{name} predicted nothing: its metrics count as 0', logger='current', level=30
                )
                result.update(dict.fromkeys(keys, 0.0))
        metrics = {
            f'{name}/{key}': value
            for name, result in results.items()
            for key, value in result.items()
        }
        self.runner.call_hook(f'after_{self.mode}_epoch', metrics=metrics)
        self.runner.call_hook(f'after_{self.mode}')
        return metrics

    @torch.no_grad()
    def run_iter(self, idx, data_batch):
        """Evaluate one batch."""
        self.runner.call_hook(f'before_{self.mode}_iter', batch_idx=idx, data_batch=data_batch)
        with autocast(enabled=self.fp16):
            predictions = self.predict(data_batch)
        for name, evaluator in self.evaluators.items():
            evaluator.process(data_samples=predictions[name], data_batch=data_batch)
        self.runner.call_hook(
            f'after_{self.mode}_iter',
            batch_idx=idx,
            data_batch=data_batch,
            outputs=predictions[self.names[-1]],
        )

    def predict(self, data_batch):
        """dict[str, list]: Predictions by name; under test-time augmentation merged by the toolbox's own TTA model."""
        model, distiller = self.runner.model, _distiller(self.runner.model)
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
                tta.module = distiller.network(
                    name if name in distiller.specs else distiller.ensemble_members[0]
                )
                merged[name] = tta.merge_preds(list(zip(*(view[name] for view in views))))
        finally:
            tta.module = distiller
        return merged


def _distiller(model):
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


@LOOPS.register_module()
class MemberValLoop(_MemberLoop, ValLoop):
    """Validation of every member and the ensemble in one pass. See `_MemberLoop`."""

    mode = 'val'
    __doc__ += _MemberLoop.__doc__


@LOOPS.register_module()
class MemberTestLoop(_MemberLoop, TestLoop):
    """Test of every member and the ensemble in one pass."""

    mode = 'test'
    __doc__ += _MemberLoop.__doc__
