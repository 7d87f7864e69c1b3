"""Pictures of each task from predictions made by hand: no networks, no training."""

from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
from mmengine.structures import InstanceData, PixelData

from mmkd.tasks.drawing import WRONG
from mmkd.utils.errors import ConfigError
from mmkd.visualization import feature_panels, member_panels
from mmkd.visualization.panels import COLORS, GT, RIGHT, STRIP

WIDTH = 256 + 4  # of a panel and the gap beside it


def panel(picture, i):
    """The drawn image of the i-th panel, without its title."""
    return picture[STRIP : STRIP + 256, i * WIDTH : i * WIDTH + 256].astype(int)


def title(picture, i):
    return picture[:STRIP, i * WIDTH : i * WIDTH + 256].astype(int)


def near(image, color, tolerance=70):
    """Where an image has about a color."""
    return (np.abs(image - np.array(color)).max(-1)) < tolerance


class Frames(list):
    """A data set of one gray frame of 64 px."""

    def __init__(self, folder, sample, metainfo, instances=()):
        path = folder / 'frame_0007.png'
        cv2.imwrite(str(path), np.full((64, 64, 3), 90, np.uint8))
        sample.set_metainfo(dict(img_path=str(path), ori_shape=(64, 64), img_shape=(64, 64)))
        super().__init__([dict(inputs=torch.zeros(3, 64, 64), data_samples=sample)])
        self.metainfo, self.instances = metainfo, list(instances)

    def get_data_info(self, index):
        return dict(instances=self.instances)


def model_of(drawing, predictions, taps=None):
    return SimpleNamespace(
        task=SimpleNamespace(drawing=drawing),
        predict_members=lambda data: {name: [sample] for name, sample in predictions.items()},
        data_preprocessor=lambda data, training: data,
        read_taps=lambda inputs, samples: taps or {},
    )


# ---------------------------------------------------------------- segmentation


def label_map(*boxes, ignored=None):
    """A map of 64 px: class i + 1 in the i-th box of rows and columns."""
    labels = torch.zeros(1, 64, 64, dtype=torch.long)
    for label, (top, bottom, left, right) in enumerate(boxes, 1):
        labels[:, top:bottom, left:right] = label
    if ignored is not None:
        labels[:, :, ignored:] = 255
    return PixelData(data=labels)


def segmentation(folder, members, gt, classes):
    pytest.importorskip('mmseg')
    from mmseg.structures import SegDataSample

    from mmkd.tasks.segmentation.drawing import SegmentationDrawing

    sample = SegDataSample()
    sample.gt_sem_seg = gt
    palette = [[0, 0, 0], [220, 20, 60], [0, 0, 230], [119, 11, 32]][: len(classes)]
    frames = Frames(folder, sample, dict(classes=classes, palette=palette))
    predictions = {}
    for name, labels in members.items():
        predictions[name] = sample.clone()
        predictions[name].pred_sem_seg = labels
    drawing = SegmentationDrawing(SimpleNamespace(ignore_index=255))
    return member_panels(model_of(drawing, predictions), frames, 0)


def test_a_foreground_has_its_members_color_and_ignored_pixels_count_nowhere(tmp_path):
    """Members differ in columns 0 to 15 and in ignored ones from 48 on."""
    members = dict(
        teacher=label_map((8, 40, 16, 64)),
        student1=label_map((8, 40, 0, 48)),
        ensemble=label_map((8, 40, 16, 48)),
    )
    gt = label_map((8, 40, 16, 64), ignored=48)
    picture = segmentation(tmp_path, members, gt, ('background', 'polyp'))
    assert picture.shape == (STRIP + 256, 5 * WIDTH, 3)  # no legend for one foreground
    for i, color in enumerate([GT, *COLORS[:3]]):
        mixed = (np.array(color) + 90) // 2
        assert near(panel(picture, i)[100, 100], mixed, 25), (i, panel(picture, i)[100, 100])
    # Ground truth: hatched where there is no label, in the foreground's rows and outside.
    ignored = panel(picture, 0)[:, 48 * 4 :]
    assert 0.1 < near(ignored, (128, 128, 128), 12).mean() < 0.5
    red = near(panel(picture, 4), WRONG)
    assert red[8 * 4 : 40 * 4, : 16 * 4].mean() > 0.9 and red[:, 16 * 4 + 2 :].mean() < 0.01


def test_the_overlap_stands_in_the_title():
    pytest.importorskip('mmseg')
    from mmkd.tasks.segmentation.drawing import SegmentationDrawing

    drawing = SegmentationDrawing(SimpleNamespace(ignore_index=255))

    def remark(own, gt, classes):
        one, other = SimpleNamespace(pred_sem_seg=own), SimpleNamespace(pred_sem_seg=gt)
        return drawing.remark(one, other, dict(classes=classes))

    two, three = ('background', 'polyp'), ('road', 'person', 'car')
    own, gt = label_map((0, 64, 0, 48)), label_map((0, 64, 0, 64), ignored=60)
    assert remark(own, gt, two) == ('IoU 0.80', None)  # 48 of the 60 columns that count
    assert remark(label_map(), label_map(), two) == ('', None)
    # Road 0 of 12 columns, person 48 of 60, car neither here nor there.
    assert remark(own, gt, three) == ('IoU 0.40', None)


def test_several_classes_have_a_legend(tmp_path):
    gt = label_map((8, 40, 0, 20), (8, 40, 20, 40), (8, 40, 40, 60))
    classes = ('road', 'person', 'car', 'train')
    picture = segmentation(tmp_path, dict(teacher=gt), gt, classes)
    assert picture.shape[1] > 2 * WIDTH + 100
    legend = picture[:, 2 * WIDTH :].astype(int)
    for color in ((220, 20, 60), (0, 0, 230), (119, 11, 32)):
        assert near(legend, color, 5).sum() > 50
    drawn = panel(picture, 1)
    assert drawn[100, 40, 0] > drawn[100, 40, 2] and drawn[100, 120, 2] > drawn[100, 120, 0]


# ---------------------------------------------------------------- detection


def detection(folder, members, classes, gt):
    from mmdet.structures import DetDataSample

    from mmkd.tasks.detection.drawing import DetectionDrawing

    sample = DetDataSample()
    instances = [dict(bbox=box, bbox_label=label) for *box, label in gt]
    frames = Frames(folder, sample, dict(classes=classes), instances)
    predictions = {}
    for name, rows in members.items():
        rows = torch.tensor(rows).reshape(-1, 6)
        predictions[name] = sample.clone()
        predictions[name].pred_instances = InstanceData(
            bboxes=rows[:, :4], scores=rows[:, 4], labels=rows[:, 5].long()
        )
    return member_panels(model_of(DetectionDrawing(None), predictions), frames, 0)


def test_boxes_scores_and_those_that_one_member_has_alone(tmp_path):
    both, alone = (8.0, 20, 24, 36, 0.9, 0), (36.0, 30, 60, 60, 0.5, 0)
    weak = (2.0, 50, 20, 62, 0.2, 0)  # not drawn
    members = dict(teacher=[both], student1=[both, alone, weak], ensemble=[both, alone])
    picture = detection(tmp_path, members, ('polyp',), [(8.0, 20, 24, 36, 0)])
    assert near(panel(picture, 0), GT).sum() > 200
    assert near(panel(picture, 1), COLORS[0])[:, 36 * 4 :].sum() == 0
    assert near(panel(picture, 2), COLORS[1])[30 * 4 :, 36 * 4 :].sum() > 200
    assert near(panel(picture, 2), COLORS[1])[48 * 4 :, : 21 * 4].sum() == 0
    differing = near(panel(picture, 4), COLORS[1])
    assert differing[:, 35 * 4 :].sum() > 200 and differing[:, : 30 * 4].sum() == 0


def test_class_names_stand_beside_scores_where_there_are_several(tmp_path):
    box = (8.0, 20, 40, 60, 0.9, 1)
    one, several = (
        detection(tmp_path, dict(a=[row]), classes, [(8.0, 20, 40, 60, row[5])])
        for row, classes in (((*box[:5], 0), ('polyp',)), (box, ('cat', 'a very long dog')))
    )
    behind = (36, 36, 36)  # black under the letters
    assert near(panel(several, 1), behind, 8).sum() > 2 * near(panel(one, 1), behind, 8).sum() > 0
    assert near(panel(several, 0), behind, 8).any() and not near(panel(one, 0), behind, 8).any()


# ---------------------------------------------------------------- classification


def test_sheets_mark_right_and_wrong(tmp_path):
    pytest.importorskip('mmpretrain')
    from mmpretrain.structures import DataSample

    from mmkd.tasks.classification.drawing import ClassificationDrawing

    sample = DataSample().set_gt_label(1)
    frames = Frames(tmp_path, sample, dict(classes=('tumor', 'stroma')))
    predictions = {
        name: sample.clone().set_pred_label(label).set_pred_score(torch.tensor([0.3, 0.7]))
        for name, label in dict(teacher=1, student1=0, ensemble=1).items()
    }
    picture = member_panels(model_of(ClassificationDrawing(None), predictions), frames, 0)
    for i, color in enumerate([RIGHT, WRONG, RIGHT], 1):
        assert near(title(picture, i), color, 60).sum() > 20, i
    assert near(title(picture, 2), RIGHT, 60).sum() == 0
    assert near(panel(picture, 4), WRONG).sum() > 20  # who says what


# ---------------------------------------------------------------- taps


def test_a_prediction_tap_is_drawn_as_the_foregrounds_probability(tmp_path):
    """The mean over channels, which softmax ignores, is the same everywhere here."""
    pytest.importorskip('mmseg')
    from mmseg.structures import SegDataSample

    from mmkd.tasks.segmentation.drawing import SegmentationDrawing

    logits = torch.zeros(1, 2, 8, 8)
    logits[:, 1, :, 4:], logits[:, 0, :, 4:] = 6.0, -6.0
    logits[:, 1, :, :4], logits[:, 0, :, :4] = -6.0, 6.0
    taps = {('a', 'prediction'): logits, ('b', 'prediction'): -logits, ('a', 'neck'): logits}
    frames = Frames(tmp_path, SegDataSample(), dict(classes=('background', 'polyp')))
    drawing = SegmentationDrawing(None)
    picture = feature_panels(model_of(drawing, {}, taps), frames, 0)
    assert picture.shape[0] == 2 * (STRIP + 256 + 4)
    probability = picture[STRIP + 256 + 4 :]
    for i, (red, blue) in enumerate(
        [(slice(160, 256), slice(0, 90)), (slice(0, 90), slice(160, 256))]
    ):
        drawn = panel(probability, i)
        assert (drawn[:, red, 0] > drawn[:, red, 2] + 40).all()  # high: red
        assert (drawn[:, blue, 2] > drawn[:, blue, 0] + 40).all()
    assert feature_panels(model_of(drawing, {}, {('a', 'x'): logits[0, 0]}), frames, 0) is None


def test_probability_maps():
    pytest.importorskip('mmseg')
    from mmkd.tasks.segmentation.drawing import SegmentationDrawing

    drawing = SegmentationDrawing(None)
    logits = torch.randn(2, 3, 4, 4)
    assert torch.equal(drawing.probability_map(logits), logits.softmax(1).amax(1, True))
    assert torch.equal(drawing.probability_map(logits[:, :2]), logits[:, :2].softmax(1)[:, 1:])
    assert torch.equal(drawing.probability_map(logits[:, :1]), logits[:, :1].sigmoid())
    assert drawing.probability_map(logits[0]) is None and drawing.probability_map([logits]) is None


def test_a_task_without_pictures_is_named(tmp_path):
    with pytest.raises(ConfigError, match='SimpleNamespace draws no pictures'):
        member_panels(model_of(None, {}), None, 0)
