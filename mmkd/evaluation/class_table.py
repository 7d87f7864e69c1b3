from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log

from mmkd.registry import METRICS
from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError
from mmkd.utils.text import align


@METRICS.register_module()
class ClassTable(BaseMetric):
    """Precision, recall and F1 of each class, and the confusion matrix, by scikit-learn.

    For classifiers with one label. Both tables go into the log; the figures are `recall_<class>`,
    `precision_<class>`, `f1_<class>` and `macro_f1`, in percent. A class without an image in the
    data, or never predicted, has 0.

    Args:
        largest: With more classes the confusion matrix is not logged.
        collect_device: As every mmengine metric's.
        prefix: As every mmengine metric's. Default: `class`.

    Raises:
        ConfigError: While evaluating, for images with several labels.
    """

    default_prefix = 'class'

    def __init__(
        self, largest: int = 30, collect_device: str = 'cpu', prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.largest = check_integer(largest, 'ClassTable.largest', 0)

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep each image's true and predicted class.

        Args:
            data_batch: Not used.
            data_samples: With `gt_label` and `pred_score`.
        """
        for sample in data_samples:
            if len(sample['gt_label']) != 1:
                raise ConfigError(
                    'ClassTable: for one label an image, got one with '
                    f'{sample["gt_label"].tolist()}; mmpretrain.MultiLabelMetric has several'
                )
            score = sample['pred_score']
            self.results.append((int(sample['gt_label'][0]), int(score.argmax()), len(score)))

    def compute_metrics(self, results: list[tuple[int, int, int]]) -> dict[str, float]:
        """Return the figures of all classes, and log the tables."""
        from sklearn import metrics  # here: a start is seconds shorter without it

        truth, predicted, counts = (np.array(column) for column in zip(*results))
        labels = list(range(counts.max()))
        named = list((self.dataset_meta or {}).get('classes') or labels)
        names = [str(named[i]) if i < len(named) else str(i) for i in labels]
        figures = metrics.precision_recall_fscore_support(
            truth, predicted, labels=labels, zero_division=0
        )
        *shares, support = figures
        rows = [['class', 'precision', 'recall', 'F1', 'images']]
        rows += [
            [name, *(f'{100 * share[i]:.1f}' for share in shares), str(support[i])]
            for i, name in enumerate(names)
        ]
        print_log(f'\n{align(rows)}', logger='current')
        if len(labels) <= self.largest:
            matrix = metrics.confusion_matrix(truth, predicted, labels=labels)
            rows = [['true \\ predicted', *names]]
            rows += [[name, *map(str, row)] for name, row in zip(names, matrix.tolist())]
            print_log(f'\n{align(rows)}', logger='current')
        metrics = {
            f'{kind}_{name}': 100 * float(share[i])
            for kind, share in zip(('precision', 'recall', 'f1'), shares)
            for i, name in enumerate(names)
        }
        return dict(metrics, macro_f1=100 * float(np.mean(shares[2])))
