from collections.abc import Sequence

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmkd.registry import METRICS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

MEASURES = ('dice', 'iou')


@METRICS.register_module()
class PolypSegMetric(BaseMetric):
    """Polyp segmentation as polyp papers measure it: one class, each image by itself.

    Every figure is the mean over images, in percent, at the size of the ground truth, which must
    be the original size (load the annotations after the resize). The figures:

    - `dice`, `iou`: of the mask of all pixels whose polyp probability is above 0.5.

    An image without polyp has a Dice and IoU of 100 if nothing is predicted, else 0.

    The probability comes from `seg_logits`: the softmax over several channels, or what mmseg
    leaves of a single channel (its sigmoid). Without `seg_logits` the classes of `pred_sem_seg`
    serve as probabilities of 0 and 1.

    Args:
        measures: Which figures to compute.
        positive: Label of the polyp, in the ground truth and among the prediction's channels.
        ignore_index: Label of pixels that count as background in truth and prediction.
        collect_device: As every mmengine metric's.
        prefix: As every mmengine metric's. Default: `polyp`.

    Raises:
        ConfigError: For an unknown measure, or while evaluating, if a prediction and its ground
            truth differ in size.
    """

    default_prefix = 'polyp'

    def __init__(
        self,
        measures: Sequence[str] = ('dice', 'iou'),
        positive: int = 1,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if isinstance(measures, str) or not measures:
            raise ConfigError(
                f'PolypSegMetric.measures: expected a list of names, got {measures!r}; '
                f'valid: {", ".join(MEASURES)}'
            )
        self.measures = [choose(name, MEASURES, 'PolypSegMetric.measures') for name in measures]
        self.positive, self.ignore_index = positive, ignore_index

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Measure each image of a batch.

        Args:
            data_batch: Not used.
            data_samples: With `gt_sem_seg` (1, H, W) and `seg_logits` (C, H, W) or `pred_sem_seg`
                (1, H, W).
        """
        for sample in data_samples:
            truth = sample['gt_sem_seg']['data'].squeeze(0)
            probability = self._probability(sample)
            if probability.shape != truth.shape:
                raise ConfigError(
                    f'PolypSegMetric: {sample.get("img_path")}: the prediction has '
                    f'{tuple(probability.shape)} pixels, the ground truth {tuple(truth.shape)}; in '
                    "the pipeline, 'LoadAnnotations' must come after 'Resize', so that the truth "
                    'keeps the original size'
                )
            polyp = truth == self.positive
            probability = probability.masked_fill(truth == self.ignore_index, 0)
            self.results.append(_overlap(probability > 0.5, polyp))

    def _probability(self, sample: dict) -> Tensor:
        if 'seg_logits' not in sample:
            return (sample['pred_sem_seg']['data'].squeeze(0) == self.positive).float()
        scores = sample['seg_logits']['data'].float()
        if len(scores) == 1:
            return scores[0]
        if len(scores) <= self.positive:
            raise ConfigError(
                f'PolypSegMetric.positive: {self.positive} of a prediction with {len(scores)} '
                'channels'
            )
        return scores.softmax(0)[self.positive]

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the mean over images of each measure."""
        return {
            name: 100 * float(np.mean([result[name] for result in results]))
            for name in self.measures
        }


def _overlap(predicted: Tensor, true: Tensor) -> dict[str, float]:
    both = torch.count_nonzero(predicted & true).item()
    total = torch.count_nonzero(predicted).item() + torch.count_nonzero(true).item()
    if not total:
        return dict(dice=1.0, iou=1.0)
    return dict(dice=2 * both / total, iou=both / (total - both))
