from collections.abc import Sequence
from typing import Any

from mmengine.evaluator import BaseMetric


class Agreement(BaseMetric):
    """The mean over images of how far an ensemble's members agree, in percent.

    The validation and test loops feed it: each image's value, from 0 to 1, stands in the place of a
    data sample. Images that fill up the last batch of several processes do not count.
    """

    def process(self, data_batch: Any, data_samples: Sequence[float]) -> None:
        """Keep the values of a batch's images."""
        self.results.extend(data_samples)

    def compute_metrics(self, results: list[float]) -> dict[str, float]:
        """Return the mean of all images."""
        return dict(agreement=100 * sum(results) / len(results))
