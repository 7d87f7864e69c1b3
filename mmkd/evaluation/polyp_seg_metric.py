from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from torch import Tensor

from mmkd.registry import METRICS
from mmkd.utils.checks import check_integer, choose
from mmkd.utils.errors import ConfigError

from .foreground_maps import (
    alignment_curve,
    counts_by_threshold,
    hausdorff_95,
    overlap_curves,
    stretched,
    structure_measure,
    weighted_f,
)

# Of the mask at the threshold 0.5, cheap.
AT_HALF = ('dice', 'iou')
# Of the stretched map, at several thresholds or none.
OF_MAP = ('dice_curve', 'iou_curve', 'weighted_f', 's_measure', 'mean_e', 'max_e', 'mae')
# Of the mask at the threshold 0.5, in pixels.
DISTANCE = 'hd95'
MEASURES = (*AT_HALF, *OF_MAP, DISTANCE)


@METRICS.register_module()
class PolypSegMetric(BaseMetric):
    """Polyp segmentation as polyp papers measure it: one class, each image by itself.

    Every figure is the mean over images, in percent but for `hd95`, at the size of the ground
    truth, which must be the original size (load the annotations after the resize). The figures:

    - `dice`, `iou`: of the mask of all pixels whose polyp probability is above 0.5. An image
      without polyp has 100 if nothing is predicted, else 0.
    - `dice_curve`, `iou_curve`: their mean over 256 thresholds, PraNet's mDice and mIoU.
    - `weighted_f`: weighted F-measure, `s_measure`: structure measure, `mae`: mean absolute error.
    - `mean_e`, `max_e`: enhanced-alignment measure, mean and maximum over 256 thresholds of the
      mean over images. It can exceed 100 by the share of one pixel, as in the authors' code.
    - `hd95`: 95th percentile of the distances between the contours of truth and of the mask at
      0.5, in pixels, lower is better. Of an image without polyp 0 if nothing is predicted, else,
      as where a polyp is missed altogether, the diagonal of the image (mmkd's choice).

    All but `dice`, `iou` and `hd95` stretch each image's probabilities to [0, 1] first, as PraNet's
    evaluation does, and equal PySODMetrics, except that an image without polyp counts 100 in the
    curves where nothing is predicted. `foreground_maps.py` has the definitions and sources.

    The probability comes from `seg_logits`: the softmax over several channels, or what mmseg
    leaves of a single channel (its sigmoid). Without `seg_logits` the classes of `pred_sem_seg`
    serve as probabilities of 0 and 1.

    Args:
        measures: Which figures to compute, or `all`. Default: Dice and IoU, the cheap ones.
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
        measures: Sequence[str] | str = AT_HALF,
        positive: int = 1,
        ignore_index: int = 255,
        collect_device: str = 'cpu',
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        measures = MEASURES if measures == 'all' else measures
        if isinstance(measures, str) or not measures:
            raise ConfigError(
                f"PolypSegMetric.measures: expected 'all' or a list of names, got {measures!r}; "
                f'valid: {", ".join(MEASURES)}'
            )
        self.measures = [choose(name, MEASURES, 'PolypSegMetric.measures') for name in measures]
        self.positive = check_integer(positive, 'PolypSegMetric.positive', 0)
        self.ignore_index = check_integer(ignore_index, 'PolypSegMetric.ignore_index', -1)

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
            result: dict[str, Any] = _overlap(probability > 0.5, polyp)
            if DISTANCE in self.measures:
                masks = (probability > 0.5).cpu().numpy(), polyp.cpu().numpy()
                result[DISTANCE] = hausdorff_95(*masks)
            if set(self.measures) & set(OF_MAP):
                result.update(self._of_map(probability.cpu().numpy(), polyp.cpu().numpy()))
            self.results.append(result)

    def _probability(self, sample: dict) -> Tensor:
        if 'seg_logits' not in sample:
            return (sample['pred_sem_seg']['data'].squeeze(0) == self.positive).float()
        scores = sample['seg_logits']['data'].float()
        if max(len(scores), 2) <= self.positive:
            raise ConfigError(
                f'PolypSegMetric.positive: {self.positive} of a prediction with {len(scores)} '
                f'channel{"s" * (len(scores) > 1)}'
            )
        if len(scores) == 1:  # the probability of label 1
            return scores[0] if self.positive else 1 - scores[0]
        return scores.softmax(0)[self.positive]

    def _of_map(self, probability: np.ndarray, mask: np.ndarray) -> dict[str, Any]:
        values, size = stretched(probability), int(mask.sum())
        curves = counts_by_threshold(values, mask)
        dice, iou = overlap_curves(*curves, size)
        result: dict[str, Any] = dict(dice_curve=dice.mean(), iou_curve=iou.mean())
        result['mae'] = np.abs(values - mask).mean()
        result['alignment'] = alignment_curve(*curves, size, mask.size)
        if 'weighted_f' in self.measures:
            result['weighted_f'] = weighted_f(values, mask)
        if 's_measure' in self.measures:
            result['s_measure'] = structure_measure(values, mask)
        return result

    def compute_metrics(self, results: list[dict]) -> dict[str, float]:
        """Return the mean over images of each measure."""
        means = {key: np.mean([result[key] for result in results], axis=0) for key in results[0]}
        if 'alignment' in means:
            curve = means.pop('alignment')
            means.update(mean_e=curve.mean(), max_e=curve.max())
        return {
            name: float(means[name]) * (1 if name == DISTANCE else 100) for name in self.measures
        }


def _overlap(predicted: Tensor, true: Tensor) -> dict[str, Any]:
    both = torch.count_nonzero(predicted & true).item()
    total = torch.count_nonzero(predicted).item() + torch.count_nonzero(true).item()
    if not total:
        return dict(dice=1.0, iou=1.0)
    return dict(dice=2 * both / total, iou=both / (total - both))
