import pickle

import pytest
import torch
from mmengine.evaluator import Evaluator
from mmengine.structures import PixelData

pytest.importorskip('mmseg')
from mmseg.evaluation import IoUMetric  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402

from mmkd.evaluation import DumpSegResults  # noqa: E402


def samples():
    generator = torch.Generator().manual_seed(0)
    for i in range(3):
        logits = torch.rand(2, 24, 32, generator=generator)
        truth = torch.randint(0, 2, (1, 24, 32), generator=generator)
        truth[:, :2] = 255
        yield SegDataSample(
            seg_logits=PixelData(data=logits),
            pred_sem_seg=PixelData(data=logits.argmax(0, keepdim=True)),
            gt_sem_seg=PixelData(data=truth),
            metainfo=dict(img_path=f'{i}.png'),
        )


@pytest.mark.parametrize('logits', [False, True])
def test_label_maps_in_bytes_that_can_be_measured(tmp_path, logits):
    path = tmp_path / 'x.pkl'
    metrics = [DumpSegResults(str(path), logits=logits), IoUMetric(iou_metrics=['mIoU', 'mDice'])]
    evaluator = Evaluator(metrics)
    evaluator.dataset_meta = dict(classes=('background', 'polyp'))
    evaluator.process(list(samples()), {})
    measured = evaluator.evaluate(3)
    found = pickle.loads(path.read_bytes())
    for sample, saved in zip(samples(), found):
        assert saved['pred_sem_seg']['data'].dtype == torch.uint8
        assert saved['pred_sem_seg']['data'].equal(sample.pred_sem_seg.data.byte())
        assert saved['img_path'] == sample.img_path and ('seg_logits' in saved) is logits
    offline = Evaluator(IoUMetric(iou_metrics=['mIoU', 'mDice']))
    offline.dataset_meta = evaluator.dataset_meta
    assert offline.offline_evaluate(found) == measured
