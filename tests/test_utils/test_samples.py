import copy

import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData

from mmkd.utils.samples import clone_samples, shallow_copy


def detection_sample():
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks

    sample = DetDataSample(metainfo=dict(img_id=3, img_shape=(8, 8), scale_factor=np.ones(2)))
    sample.gt_instances = InstanceData(
        bboxes=HorizontalBoxes(torch.tensor([[1.0, 2.0, 5.0, 6.0], [0.0, 0.0, 3.0, 3.0]])),
        labels=torch.tensor([0, 2]),
        masks=BitmapMasks(np.ones((2, 8, 8), np.uint8), 8, 8),
    )
    sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
    sample.gt_sem_seg = PixelData(sem_seg=torch.zeros(1, 8, 8))
    return sample


def scribble(sample):
    """Change in place all that a network could reach."""
    gt = sample.gt_instances
    gt.bboxes.tensor.mul_(7)
    gt.labels.add_(1)
    gt.masks.masks[:] = 0
    gt.masks = gt.masks.to_tensor(torch.bool, 'cpu')
    gt.extra = torch.zeros(2)
    sample.gt_sem_seg.sem_seg.fill_(9)
    sample.ignored_instances = InstanceData(bboxes=torch.ones(4, 4))
    sample.metainfo['scale_factor'][:] = 5
    sample.set_metainfo(dict(img_id=17))


def test_what_is_done_to_a_copy_does_not_reach_the_sample_or_another_copy():
    sample = detection_sample()
    (first,), (second,) = clone_samples([sample]), clone_samples([sample])
    scribble(first)
    for kept in (sample, second):
        assert kept.gt_instances.bboxes.tensor[0].tolist() == [1, 2, 5, 6]
        assert kept.gt_instances.labels.tolist() == [0, 2]
        assert kept.gt_instances.masks.masks.all() and 'extra' not in kept.gt_instances
        assert not kept.gt_sem_seg.sem_seg.any() and len(kept.ignored_instances.bboxes) == 0
        assert kept.img_id == 3 and kept.scale_factor.tolist() == [1, 1]


def test_a_copy_is_of_the_same_kind_and_content():
    sample = detection_sample()
    sample.gt_instances.bboxes.tensor.requires_grad_()
    (clone,) = clone_samples([sample])
    assert type(clone) is type(sample) and sorted(clone.keys()) == sorted(sample.keys())
    assert type(clone.gt_instances.bboxes) is type(sample.gt_instances.bboxes)
    assert type(clone.gt_instances.masks) is type(sample.gt_instances.masks)
    assert clone.metainfo.keys() == sample.metainfo.keys()
    assert clone_samples([]) == []


def test_of_meta_information_only_what_can_change_is_copied():
    sample = detection_sample()
    points = ([1, 2], 'path')
    sample.set_metainfo(dict(shape=(8, 8), points=points))
    for copied in (*clone_samples([sample]), shallow_copy(sample)):
        assert copied.metainfo['shape'] is sample.metainfo['shape']
        copied.points[0].append(3)
        copied.scale_factor[:] = 5
        assert sample.points == points and sample.scale_factor.tolist() == [1, 1]


def test_a_shallow_copy_shares_the_data_until_another_is_set():
    sample = detection_sample()
    copied = shallow_copy(sample)
    assert type(copied) is type(sample) and copied.gt_instances is sample.gt_instances
    copied.gt_instances = InstanceData(bboxes=torch.zeros(1, 4))
    assert len(sample.gt_instances) == 2


@pytest.mark.parametrize('kind', ['segmentation', 'classification'])
def test_other_tasks(kind):
    if kind == 'segmentation':
        sample = pytest.importorskip('mmseg.structures').SegDataSample(
            metainfo=dict(img_shape=(4, 4))
        )
        sample.gt_sem_seg = PixelData(data=torch.ones(1, 4, 4, dtype=torch.long))
    else:
        sample = pytest.importorskip('mmpretrain.structures').DataSample(
            metainfo=dict(img_shape=(4, 4))
        )
        sample.set_gt_label(1).set_gt_score(torch.tensor([0.0, 1.0]))
    before = copy.deepcopy(sample)
    (clone,) = clone_samples([sample])
    assert type(clone) is type(sample)
    if kind == 'segmentation':
        clone.gt_sem_seg.data.zero_()
        assert torch.equal(sample.gt_sem_seg.data, before.gt_sem_seg.data)
    else:
        clone.gt_label.zero_()
        clone.gt_score.zero_()
        assert sample.gt_label.tolist() == [1] and sample.gt_score.tolist() == [0, 1]


def test_a_member_that_scribbles_into_its_samples_changes_no_other_member(toolkit):
    """The loss of one member scales its boxes in place; the next one must see the file's."""
    names = ('a', 'b')
    members = {name: toolkit.yolox(seed=i) for i, name in enumerate(names)}
    model = toolkit.make_distiller(members=members)
    data = model.data_preprocessor(toolkit.make_batch(), True)
    expected = model(**copy.deepcopy(data), mode='loss')
    head = model.network('a').bbox_head
    loss = head.loss_by_feat

    def scribbling(*args, **kwargs):
        result = loss(*args, **kwargs)
        for instances in args[3]:
            instances.bboxes.mul_(3)
            instances.labels.zero_()
        return result

    head.loss_by_feat = scribbling
    terms = model(**data, mode='loss')
    for key, value in expected.items():
        torch.testing.assert_close(terms[key], value, rtol=0, atol=0)
