"""mmkd's count of pixels by class against MMSegmentation's own."""

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData

pytest.importorskip('mmseg')
from mmseg.evaluation import IoUMetric  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from mmkd.evaluation.label_areas import label_areas  # noqa: E402
from mmkd.evaluation.quick_metrics import count_quickly  # noqa: E402


def labels(classes, highest, kind=torch.long):
    generator = torch.Generator().manual_seed(0)
    predicted, true = torch.randint(0, highest, (2, 24, 30), generator=generator)
    true[:5] = 255
    return predicted.to(kind), true.to(kind), classes


CASES = dict(
    two=labels(2, 2),
    floats=labels(2, 2, torch.float32),  # of a network with one channel
    bytes=labels(19, 19, torch.uint8),
    one_is_missing=labels(4, 2),
    others=labels(3, 7),  # both are of classes that the data set does not have
    all_ignored=(torch.ones(4, 4).long(), torch.full((4, 4), 255), 2),
    nothing=(torch.zeros(0, 4).long(), torch.zeros(0, 4).long(), 2),
)


@pytest.mark.parametrize('ignored', [255, -100])
@pytest.mark.parametrize('case', CASES)
def test_areas(case, ignored):
    predicted, true, classes = CASES[case]
    found = label_areas(predicted, true, classes, ignored)
    expected = IoUMetric.intersect_and_union(predicted, true, classes, ignored)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


class Weighted(IoUMetric):
    """A project's own metric."""

    @staticmethod
    def intersect_and_union(*args):
        return tuple(3 * area for area in IoUMetric.intersect_and_union(*args))


def test_only_the_toolbox_own_count_is_replaced():
    own, plain, other = Weighted(), IoUMetric(), IoUMetric()
    for metric in (own, plain):
        count_quickly(metric)
    assert plain.intersect_and_union is label_areas
    assert own.intersect_and_union is Weighted.intersect_and_union
    assert other.intersect_and_union is not label_areas


def test_figures_of_a_metric():
    predicted, true, _ = CASES['two']
    sample = SegDataSample(
        pred_sem_seg=PixelData(data=predicted[None]), gt_sem_seg=PixelData(data=true[None])
    )
    found = []
    for quick in (True, False):
        metric = IoUMetric(iou_metrics=['mIoU', 'mDice', 'mFscore'])
        if quick:
            count_quickly(metric)
        evaluator = Evaluator(metric)
        evaluator.dataset_meta = dict(classes=('background', 'polyp'))
        evaluator.process([sample, sample], {})
        found.append(evaluator.evaluate(2))
    assert found[0] == found[1] and 0 < found[0]['mIoU'] < 100
