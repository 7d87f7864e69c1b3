import copy
import types

import numpy as np
import pytest
from mmengine.hooks import EMAHook
from mmengine.runner import IterBasedTrainLoop, Runner
from mmengine.runner.priority import get_priority

from mmkd.engine.hooks import BestMemberHook, MemberVisualizationHook


@pytest.fixture
def drawn(monkeypatch):
    module = 'mmkd.engine.hooks.member_visualization_hook'
    monkeypatch.setattr(f'{module}.member_panels', lambda *args: np.zeros((2, 2, 3)))
    monkeypatch.setattr(f'{module}.feature_panels', lambda *args: None)
    return []


@pytest.fixture
def runner(drawn):
    class Iterations(IterBasedTrainLoop):
        def __init__(self):
            pass

    return types.SimpleNamespace(
        model=None,
        epoch=3,
        iter=400,
        _train_loop=Iterations(),
        _val_loop=object(),
        val_dataloader=types.SimpleNamespace(dataset=range(6)),
        visualizer=types.SimpleNamespace(
            add_image=lambda name, image, step: drawn.append((name, step))
        ),
    )


def test_pictures_of_iteration_based_training_do_not_overwrite_each_other(runner, drawn):
    hook = MemberVisualizationHook(indices=[1])
    for runner.iter in (400, 800):
        hook.after_val_epoch(runner)
    runner._train_loop = None
    hook.after_val_epoch(runner)
    assert drawn == [('members_1', 400), ('members_1', 800), ('members_1', 3)]


@pytest.mark.parametrize('hook', [MemberVisualizationHook, BestMemberHook])
def test_what_is_drawn_and_exported_is_what_was_measured(hook):
    """EMAHook swaps the averaged weights out again after a validation."""
    assert get_priority(hook.priority) < get_priority(EMAHook.priority)


def test_an_index_out_of_range_is_refused(runner):
    with pytest.raises(ValueError, match='indices: 6, but the validation set has 6 images'):
        MemberVisualizationHook(indices=[6]).before_run(runner)
    with pytest.raises(ValueError, match='interval: expected an integer >= 1, got 0'):
        MemberVisualizationHook(interval=0)


def test_a_test_needs_no_validation_data(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path)
    cfg.custom_hooks = [dict(type='mmkd.MemberVisualizationHook', indices=[0])]
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    cfg.val_dataloader.dataset.ann_file = 'not_on_this_machine.json'
    assert 'student1/coco/bbox_mAP' in Runner.from_cfg(cfg).test()
