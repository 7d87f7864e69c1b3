"""Boxes of a video that several of the last frames have."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmkd.apis.inference.smoothing import BoxSmoothing
from mmkd.utils.errors import ConfigError


def frame(*boxes, labels=None):
    return InstanceData(
        bboxes=torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        scores=torch.linspace(0.9, 0.5, max(len(boxes), 1))[: len(boxes)],
        labels=torch.tensor(labels or [0] * len(boxes), dtype=torch.long),
    )


HERE, MOVED, FAR = (10, 10, 30, 30), (14, 12, 34, 32), (60, 60, 80, 80)


def kept(smoothing, *frames):
    return [smoothing(one).bboxes.tolist() for one in frames]


def test_a_box_comes_when_two_of_three_frames_have_it_and_outlasts_a_gap():
    found = kept(
        BoxSmoothing(2, 3), frame(HERE), frame(MOVED), frame(), frame(HERE), frame(), frame()
    )
    assert [len(boxes) for boxes in found] == [0, 1, 0, 1, 0, 0]
    assert found[1] == [list(map(float, MOVED))]  # as it is in its frame


def test_flashes_and_other_classes_do_not_count():
    smoothing = BoxSmoothing(2, 3)
    found = kept(
        smoothing,
        frame(HERE, FAR),
        frame(HERE),
        frame(HERE, labels=[1]),
        frame(HERE, FAR),  # FAR's first flash is out of the last three
    )
    assert [len(boxes) for boxes in found] == [0, 1, 0, 1]
    assert found[3] == [list(map(float, HERE))]


def test_two_boxes_of_a_frame_are_two_objects():
    assert len(kept(BoxSmoothing(2, 2), frame(HERE, MOVED))[0]) == 0
    assert kept(BoxSmoothing(1, 1), frame(HERE, MOVED)) == [
        [list(map(float, HERE)), list(map(float, MOVED))]
    ]


@pytest.mark.parametrize('k, n', [(0, 3), (4, 3), (1.5, 3), (True, 3)])
def test_wrong_numbers(k, n):
    with pytest.raises(ConfigError, match='1 <= k <= n'):
        BoxSmoothing(k, n)
