from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmkd.registry import METRICS
from mmkd.utils.errors import ConfigError

NAMES = ('auc', 'f1', 'sensitivity', 'specificity', 'precision', 'accuracy')


@METRICS.register_module()
class BinaryClassification(BaseMetric):
    """Metrics of medical work for two classes, in percent, by scikit-learn.

    They are AUC, F1, sensitivity, specificity, precision and accuracy. The positive class is
    predicted where its score is the higher one. AUC is NaN unless both classes are in the data,
    and sensitivity or specificity without a positive or negative image. All are NaN if a score is
    not finite (a member that has diverged).

    Args:
        positive: Index of the positive class.
        collect_device: As every mmengine metric's.
        prefix: As every mmengine metric's. Default: `binary`.

    Raises:
        ConfigError: If `positive` is not 0 or 1, or while evaluating, if there are not two classes.
    """

    default_prefix = 'binary'

    def __init__(
        self, positive: int = 1, collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if positive not in (0, 1):
            raise ConfigError(f'BinaryClassification.positive: expected 0 or 1, got {positive!r}')
        self.positive = positive

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep each image's score of the positive class, whether it is predicted and true."""
        for sample in data_samples:
            score = sample['pred_score'].float().cpu().numpy()
            if len(score) != 2:
                raise ConfigError(
                    f'BinaryClassification: for two classes, got scores of {len(score)}'
                )
            label = int(sample['gt_label'][0])
            self.results.append(
                (
                    float(score[self.positive]),
                    int(score.argmax() == self.positive),
                    int(label == self.positive),
                )
            )

    def compute_metrics(self, results: list[tuple[float, int, int]]) -> dict[str, float]:
        """Return the metrics of (score, predicted, true) of all images."""
        from sklearn import metrics  # here: a start is seconds shorter without it

        scores, predicted, true = (np.array(column) for column in zip(*results))
        broken = int((~np.isfinite(scores)).sum())
        if broken:
            print_log(
                f'BinaryClassification: the scores of {broken} of {len(scores)} images are not '
                'finite',
                logger='current',
                level=30,
            )
            return dict.fromkeys(NAMES, np.nan)
        (tn, fp), (fn, tp) = metrics.confusion_matrix(true, predicted, labels=[0, 1])
        values = (
            metrics.roc_auc_score(true, scores) if 0 < true.sum() < len(true) else np.nan,
            metrics.f1_score(true, predicted, zero_division=0),
            metrics.recall_score(true, predicted, zero_division=np.nan),
            tn / (tn + fp) if tn + fp else np.nan,
            metrics.precision_score(true, predicted, zero_division=0),
            (tp + tn) / len(true),
        )
        return {name: 100 * float(value) for name, value in zip(NAMES, values)}
