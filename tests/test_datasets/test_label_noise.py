import numpy as np
import pytest
from mmengine.dataset import BaseDataset

from mmkd.datasets import LabelNoise
from mmkd.registry import TRANSFORMS
from mmkd.utils.errors import ConfigError


class Labels(BaseDataset):
    METAINFO = dict(classes=tuple('abcd'))

    def load_data_list(self):
        return [dict(gt_label=i % 4, true=i % 4) for i in range(4000)]


def noisy(**options):
    noise = TRANSFORMS.build(dict(type='mmkd.LabelNoise', num_classes=4, **options))
    data = Labels(pipeline=[noise])
    items = [data[i] for i in range(len(data))]
    return np.array([item['gt_label'] for item in items]), np.array(
        [item['true'] for item in items]
    )


def test_the_share_of_wrong_labels_and_their_classes():
    labels, true = noisy(share=0.4, seed=1)
    wrong = labels != true
    assert wrong.mean() == pytest.approx(0.4, abs=0.03)
    distance = (labels[wrong] - true[wrong]) % 4
    assert np.bincount(distance, minlength=4) / wrong.sum() == pytest.approx(
        [0, 1 / 3, 1 / 3, 1 / 3], abs=0.04
    )


def test_labels_stay_the_same_from_epoch_to_epoch_and_differ_by_seed():
    first, again, other = (noisy(share=0.4, seed=seed)[0] for seed in (0, 0, 1))
    assert (first == again).all() and 0.3 < (first != other).mean() < 0.8
    labels, true = noisy(share=0.0)
    assert (labels == true).all()
    labels, true = noisy(share=1.0)
    assert (labels != true).all()


@pytest.mark.parametrize(
    'wrong, message',
    [
        (dict(share=1.5), r'LabelNoise.share'),
        (dict(num_classes=1), r'LabelNoise.num_classes'),
        (dict(seed=-1), r'LabelNoise.seed'),
    ],
)
def test_wrong_options(wrong, message):
    with pytest.raises(ConfigError, match=message):
        LabelNoise(**{**dict(share=0.1, num_classes=4), **wrong})


@pytest.mark.parametrize('label', [4, -1, [0, 1]])
def test_a_label_of_another_kind(label):
    with pytest.raises(ConfigError, match='num_classes: 4, but the label of x.png is'):
        LabelNoise(0.5, 4)(dict(gt_label=label, sample_idx=0, img_path='x.png'))
