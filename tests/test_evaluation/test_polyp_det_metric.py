"""Polyp detection's figures against counts by hand."""

import json

import numpy as np
import pytest
import torch

from mmkd.evaluation import PolypDetMetric
from mmkd.evaluation.polyp_det_metric import matched_by_centroid, matched_by_overlap
from mmkd.utils.errors import ConfigError

SMALL, LARGE = (0, 0, 10, 10), (40, 40, 90, 90)  # 1 % and 25 % of the frame


@pytest.fixture
def ann_file(tmp_path):
    """Two polyps in image 7, one in image 8, none in image 9; frames of 100 x 100."""

    def entry(i, image, box, **more):
        x1, y1, x2, y2 = box
        bbox = [x1, y1, x2 - x1, y2 - y1]
        return dict(id=i, image_id=image, category_id=1, bbox=bbox, area=1, **more)

    content = dict(
        images=[dict(id=i, file_name=f'{i}.png', width=100, height=100) for i in (7, 8, 9)],
        annotations=[
            entry(1, 7, SMALL),
            entry(2, 7, LARGE),
            entry(3, 8, LARGE),
            entry(4, 8, SMALL, iscrowd=1),
        ],
        categories=[dict(id=1, name='polyp')],
    )
    (tmp_path / 'truth.json').write_text(json.dumps(content))
    return str(tmp_path / 'truth.json')


def sample(image, *boxes_and_scores):
    boxes = torch.tensor([box for box, _ in boxes_and_scores], dtype=torch.float32)
    return dict(
        img_id=image,
        ori_shape=(100, 100),
        pred_instances=dict(
            bboxes=boxes.reshape(-1, 4),
            scores=torch.tensor([score for _, score in boxes_and_scores]),
            labels=torch.zeros(len(boxes), dtype=torch.long),
        ),
    )


def figures(ann_file, *samples, **options):
    metric = PolypDetMetric(ann_file, **options)
    metric.process({}, samples)
    return {k.removeprefix('polyp/'): v for k, v in metric.evaluate(len(samples)).items()}


def test_counts_at_the_fixed_and_at_the_best_score(ann_file):
    shifted = (50, 50, 100, 100)  # its center is in LARGE, its IoU with it 0.47
    found = figures(
        ann_file,
        sample(7, (LARGE, 0.9), (SMALL, 0.4), (LARGE, 0.3)),
        sample(8, (shifted, 0.7)),
        sample(9, ((0, 0, 5, 5), 0.6)),
    )
    # From 0.5 on: one right, two wrong; of three polyps.
    assert found['precision'] == pytest.approx(100 / 3)
    assert found['recall'] == pytest.approx(100 / 3)
    assert found['f1'] == pytest.approx(100 / 3) == found['f2']
    assert found['fp_per_frame'] == pytest.approx(2 / 3)
    # By centroid the shifted box is right.
    assert found['centroid_precision'] == found['centroid_recall'] == pytest.approx(200 / 3)
    # The best F1, 2 * 2 / (4 boxes + 3 polyps), is at 0.4.
    assert found['best_score'] == pytest.approx(0.4)
    assert found['best_f1'] == pytest.approx(100 * 4 / 7)
    assert found['best_f2'] == pytest.approx(100 * 5 * 2 / (4 * 3 + 4))
    # By centroid the box at 0.3 finds LARGE again: neither right nor wrong.
    assert found['centroid_best_score'] == pytest.approx(0.4)
    assert found['centroid_best_precision'] == 75 and found['centroid_best_recall'] == 100
    assert found['ap50_small'] == pytest.approx(50, abs=0.5)  # after the wrong box of image 9
    assert found['ap50_medium'] == -1
    assert 0 < found['ap50'] < 100 and 0 < found['ap50_large'] < 100


def test_average_precision_is_cocos(ann_file):
    perfect = figures(ann_file, sample(7, (LARGE, 0.9), (SMALL, 0.8)), sample(8, (LARGE, 0.7)))
    names = ('ap50', 'ap50_small', 'ap50_large', 'best_f1', 'centroid_best_f1')
    assert {name: perfect[name] for name in names} == dict.fromkeys(names, pytest.approx(100))
    assert perfect['ece'] == pytest.approx(100 * (0.1 + 0.2 + 0.3) / 3, abs=1e-4)


def test_nothing_predicted_and_nothing_there(ann_file):
    none = figures(ann_file, sample(7), sample(8))
    assert none['precision'] == none['recall'] == none['best_f1'] == none['ap50'] == 0
    assert np.isnan(none['best_score']) and np.isnan(none['ece'])
    empty = figures(ann_file, sample(9, (SMALL, 0.8)))
    assert np.isnan(empty['recall']) and empty['fp_per_frame'] == 1 and empty['ap50'] == -1


def test_matching():
    boxes = np.array([LARGE, LARGE, SMALL, (20, 20, 30, 30)], float)
    polyps = np.array([SMALL, LARGE], float)
    assert matched_by_overlap(boxes, polyps, 0.5).tolist() == [1, 0, 1, 0]
    assert matched_by_centroid(boxes, polyps).tolist() == [1, -1, 1, 0]
    inside = np.array([LARGE, (60, 60, 70, 70)], float)  # one polyp in another's box
    assert matched_by_centroid(np.array([(61, 61, 69, 69), LARGE]), inside).tolist() == [1, 1]


def test_wrong_inputs(ann_file, tmp_path):
    with pytest.raises(ConfigError, match=r'PolypDetMetric.score_thr'):
        PolypDetMetric(ann_file, score_thr=2)
    with pytest.raises(ConfigError, match='0 < small < large < 1'):
        PolypDetMetric(ann_file, sizes=(0.5, 0.2))
    with pytest.raises(ConfigError, match='has no image 3'):
        figures(ann_file, sample(3))
    with pytest.raises(ConfigError, match=r'ann_file: .*none.json'):
        figures(str(tmp_path / 'none.json'), sample(3))
    (tmp_path / 'other.json').write_text('[]')
    with pytest.raises(ConfigError, match='no COCO annotation file'):
        figures(str(tmp_path / 'other.json'), sample(3))
