"""A training whose frozen teacher keeps its predictions (`cache_mb`, `train_cfg.views`)."""

import pytest
import torch
from light_training import light_config
from mmengine.registry import MODELS
from mmengine.runner import Runner

pytestmark = pytest.mark.usefixtures('unformatted_configs')


@pytest.fixture(scope='module')
def teacher(tmp_path_factory):
    """A checkpoint of the light training's teacher."""
    folder = tmp_path_factory.mktemp('teacher')
    model = MODELS.build(light_config(folder).model)
    path = folder / 'teacher.pth'
    torch.save(dict(state_dict=model.network('teacher').state_dict()), path)
    return str(path)


def trained(work_dir, teacher, cache_mb, views=1, epochs=3):
    """Return the weights of the students, how often the teacher ran in training, and the log."""
    cfg = light_config(work_dir)
    cfg.train_cfg.update(views=views, max_epochs=epochs, val_interval=epochs)
    cfg.model.members.teacher.update(training='frozen', checkpoint=teacher, cache_mb=cache_mb)
    runner = Runner.from_cfg(cfg)
    runs, model = [], runner.model
    network = model.network('teacher')
    network.backbone.register_forward_hook(lambda *_: runs.append(1) if model.training else None)
    runner.train()
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    log = ''.join(path.read_text() for path in work_dir.glob('*/*.log'))
    return weights, len(runs), log


def test_students_learn_the_same_of_a_teacher_that_runs_once_an_image(tmp_path, teacher):
    weights, runs, _ = trained(tmp_path / 'plain', teacher, 0)
    assert runs == 6  # of 9 iterations: the links end at 0.6 of the training
    cached, runs, log = trained(tmp_path / 'cached', teacher, 10)
    assert runs == 3
    torch.testing.assert_close(cached, weights)
    assert log.count('teacher: 12 of 12 images were in the cache, which holds 0 of 10 MB') == 1


def test_a_cache_without_views_is_warned_of(tmp_path, teacher):
    _, runs, log = trained(tmp_path, teacher, 10, views=None, epochs=2)
    assert runs == 4
    assert 'model.members.teacher.cache_mb: images that are augmented anew' in log


def test_what_is_fitted_before_keeps_none_of_its_images(tmp_path, teacher):
    """Their augmentations are not those of the training."""
    cfg = light_config(tmp_path)
    cfg.train_cfg.update(views=1)
    cfg.model.members.teacher.update(training='frozen', checkpoint=teacher, cache_mb=10)
    link = dict(source='teacher', target='student1', tap='backbone.layer2')
    link.update(loss='InheritExploreLoss', connector='InheritExplore')
    cfg.model.sharing = None
    cfg.model.links = [dict(link, source_connector='FactorAutoEncoder')]
    cfg.custom_hooks = [
        dict(type='mmkd.MemberHook'),
        dict(type='mmkd.FactorPretrainHook', epochs=2),
    ]
    runner = Runner.from_cfg(cfg)
    (cache,) = runner.model.members.caches.values()
    built = len(cache.kept)
    runner.train()
    assert len(cache.kept) == built + 12
