"""CocoMetric with faster-coco-eval against CocoMetric by itself."""

import copy
import json

import numpy as np
import pytest
import torch

pytest.importorskip('mmdet')
from mmdet.evaluation import CocoMetric  # noqa: E402
from mmdet.evaluation.metrics import coco_metric  # noqa: E402
from mmdet.structures.mask import encode_mask_results  # noqa: E402

from mmkd.evaluation.quick_metrics import count_quickly  # noqa: E402

SIDE, IMAGES, CLASSES = 200, 12, ('adenoma', 'serrated', 'absent')


def boxes_in(draw, number):
    """xywh boxes of all sizes."""
    wh = draw.uniform(4, 120, (number, 2))
    return np.concatenate([draw.uniform(0, 1, (number, 2)) * (SIDE - wh), wh], axis=1)


def mask_of(box):
    x, y, w, h = (round(float(v)) for v in box)
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + h, x : x + w] = True
    mask[y : y + h // 3, x : x + w // 3] = False
    return mask


@pytest.fixture(scope='module')
def ground_truth(tmp_path_factory):
    """A COCO file: images with several boxes, without any, and with a crowd."""
    draw = np.random.default_rng(0)
    images, annotations = [], []
    for image in range(IMAGES):
        images.append(dict(id=image + 3, file_name=f'{image}.png', width=SIDE, height=SIDE))
        for box in boxes_in(draw, image % 4):
            rle = encode_mask_results([mask_of(box)])[0]
            rle['counts'] = rle['counts'].decode()
            annotations.append(
                dict(
                    id=len(annotations) + 1,
                    image_id=image + 3,
                    category_id=int(draw.integers(1, 3)),
                    bbox=box.tolist(),
                    area=float(mask_of(box).sum()),
                    segmentation=rle,
                    iscrowd=int(image == 7),
                )
            )
    file = tmp_path_factory.mktemp('coco') / 'annotations.json'
    categories = [dict(id=number + 1, name=name) for number, name in enumerate(CLASSES)]
    file.write_text(json.dumps(dict(images=images, annotations=annotations, categories=categories)))
    return file


def predictions_near(ground_truth, others=5):
    """Data samples: boxes moved by some pixels, of equal scores and of wrong classes, too.

    Args:
        others: Boxes an image that are near no true one.
    """
    draw = np.random.default_rng(1)
    known = json.loads(ground_truth.read_text())
    for image in known['images']:
        true = [a for a in known['annotations'] if a['image_id'] == image['id']]
        near = [np.array(a['bbox']) + draw.normal(0, 3, 4) for a in true for _ in range(3)]
        boxes = np.array([*near, *boxes_in(draw, others)]).clip(1, SIDE - 1)
        labels = [a['category_id'] - 1 for a in true for _ in range(3)]
        labels += [i % 3 for i in range(others)]
        masks = [mask_of(box) for box in boxes]
        corners = boxes + np.concatenate([np.zeros_like(boxes[:, :2]), boxes[:, :2]], axis=1)
        yield dict(
            img_id=image['id'],
            ori_shape=(SIDE, SIDE),
            pred_instances=dict(
                bboxes=torch.tensor(corners),
                scores=torch.tensor(draw.integers(1, 9, len(boxes)) / 10),
                labels=torch.tensor(labels),
                masks=torch.tensor(np.array(masks)),
            ),
        )


def evaluated(metric):
    metric.dataset_meta = dict(classes=CLASSES)
    metric.process({}, predictions_near(metric.known, **metric.predicted))
    return metric.evaluate(IMAGES)


KINDS = dict(
    boxes=dict(metric='bbox'),
    masks=dict(metric=['bbox', 'segm'], classwise=True),
    many=dict(metric='bbox', others=300),  # of which 100 count in the mAP
    few_count=dict(metric='bbox', proposal_nums=(1, 3, 10)),
    proposals=dict(metric='proposal', proposal_nums=(1, 3, 10)),
    thresholds=dict(metric='bbox', iou_thrs=np.array([0.5, 0.75]), metric_items=['mAP', 'mAP_75']),
)


@pytest.mark.parametrize('kind', KINDS)
def test_figures_are_those_of_cocometric(ground_truth, kind):
    found, options = [], dict(KINDS[kind])
    predicted = dict(others=options.pop('others', 5))
    for quick in (True, False):
        metric = CocoMetric(ann_file=str(ground_truth), **options)
        metric.known, metric.predicted = ground_truth, predicted
        if quick:
            count_quickly(metric)
            metric = copy.deepcopy(metric)  # as an evaluator is for each member
        found.append(evaluated(metric))
    assert found[0] == pytest.approx(found[1], abs=1e-12, nan_ok=True)
    assert any(0 < value < 1 for value in found[0].values())


def test_a_member_without_masks_has_the_figures_of_its_boxes(ground_truth):
    found = []
    for kinds in (['bbox', 'segm'], ['bbox']):
        metric = CocoMetric(ann_file=str(ground_truth), metric=kinds)
        count_quickly(metric)
        metric.dataset_meta = dict(classes=CLASSES)
        for sample in predictions_near(ground_truth):
            del sample['pred_instances']['masks']
            metric.process({}, [sample])
        found.append(metric.evaluate(IMAGES))
        assert metric.metrics == kinds
    assert found[0] == found[1] and found[0]['coco/bbox_mAP'] > 0


def test_the_class_that_matches_boxes_is_put_back(ground_truth):
    own = coco_metric.COCOeval
    metric = CocoMetric(ann_file=str(ground_truth), metric='bbox')
    count_quickly(metric)
    with pytest.raises(Exception):  # noqa: B017  (whatever mmdet raises for results of nothing)
        metric.compute_metrics([])
    assert coco_metric.COCOeval is own


class Own(CocoMetric):
    """A project's own metric."""

    def compute_metrics(self, results):
        return dict(number=len(results))


def test_a_subclass_that_counts_in_its_own_way_stays_as_it_is(ground_truth):
    metric = Own(ann_file=str(ground_truth))
    count_quickly(metric)
    assert metric.compute_metrics([1, 2]) == dict(number=2)
