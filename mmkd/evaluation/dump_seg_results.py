from collections.abc import Sequence
from typing import Any

import torch
from mmengine.evaluator import DumpResults

from mmkd.registry import METRICS

MAPS = ('pred_sem_seg', 'gt_sem_seg')


@METRICS.register_module()
class DumpSegResults(DumpResults):
    """Dump segmenters' predictions: label maps in a byte a pixel, and the logits if asked for.

    mmengine's `DumpResults` writes the logits of every class at the image's size. The file serves
    `Evaluator.offline_evaluate` as well, with metrics of label maps.

    Args:
        out_file_path: The pickle file.
        logits: Keep `seg_logits`. Default: False.
        **kwargs: As every mmengine metric's.
    """

    def __init__(self, out_file_path: str, logits: bool = False, **kwargs: Any) -> None:
        super().__init__(out_file_path, **kwargs)
        self.logits = logits

    def process(self, data_batch: Any, predictions: Sequence[dict]) -> None:
        """Keep each image's prediction, on the CPU."""
        super().process(data_batch, [self._compact(sample) for sample in predictions])

    def _compact(self, sample: dict) -> dict:
        kept = {k: v for k, v in sample.items() if self.logits or k != 'seg_logits'}
        for name in MAPS:
            labels = kept.get(name, {}).get('data')
            if labels is not None and int(labels.min()) >= 0 and int(labels.max()) <= 255:
                kept[name] = dict(kept[name], data=labels.to(torch.uint8))
        return kept
