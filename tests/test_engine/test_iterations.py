"""Training that is counted in iterations, MMSegmentation's convention, from end to end."""

import pytest
import torch
from light_training import light_config
from mmengine.runner import Runner

from mmkd.utils.errors import ConfigError
from mmkd.visualization.curves import read_scalars

pytestmark = pytest.mark.usefixtures('unformatted_configs')


def config(work_dir, **changes):
    cfg = light_config(work_dir, **{'train_cfg': dict(_delete_=True), **changes})
    cfg.train_cfg = dict(type='mmkd.ResumableIterTrainLoop', max_iters=8, val_interval=4)
    cfg.default_hooks.checkpoint.update(by_epoch=False, interval=4)
    return cfg


@pytest.fixture(scope='module')
def whole(tmp_path_factory, unformatted_configs):
    from mmdet.utils import register_all_modules

    register_all_modules(False)
    folder = tmp_path_factory.mktemp('whole')
    runner = Runner.from_cfg(config(folder))
    runner.train()
    return folder, runner


def log_of(folder):
    return ''.join(path.read_text() for path in sorted(folder.glob('*/*.log')))


def test_the_log_counts_iterations(whole):
    text = log_of(whole[0])
    assert 'Iter(train) [8/8]' in text and 'Iter(val) [3/3]' in text
    row = next(line for line in text.split('\n') if 'best accuracy/top1' in line)
    assert 'iteration' in row and 'epoch' not in row
    best = whole[1].message_hub.get_info('best_members_epochs')
    assert set(best) == {'teacher', 'student1', 'student2', 'ensemble'}
    assert set(best.values()) <= {4, 8}


def test_figures_stand_at_their_iterations(whole):
    train, val = read_scalars(whole[0])
    assert list(val['student1/accuracy/top1']) == [4, 8]
    assert list(train['student1/loss']) == list(range(1, 9)) and 'epoch' not in train


@pytest.mark.parametrize(
    'key, changes',
    [
        ('default_hooks.checkpoint.by_epoch', {'default_hooks.checkpoint.by_epoch': True}),
        (
            'param_scheduler\\[0\\].by_epoch',
            dict(param_scheduler=[dict(type='MultiStepLR', milestones=[3])]),
        ),
    ],
)
def test_what_waits_for_the_end_of_an_epoch_is_refused(tmp_path, key, changes):
    cfg = config(tmp_path)
    cfg.merge_from_dict(changes)
    with pytest.raises(ConfigError, match=f'{key}: expected False'):
        Runner.from_cfg(cfg).train()


def test_a_resumed_run_equals_an_unbroken_one_and_redoes_the_validation(whole, tmp_path):
    """Killed before the validation after iteration 4, with the checkpoint written."""
    broken = Runner.from_cfg(config(tmp_path))
    broken.val_loop.run = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert not list(tmp_path.glob('best_*'))
    torch.manual_seed(77)
    cfg = config(tmp_path, load_from=str(tmp_path / 'iter_4.pth'), resume=True)
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    assert resumed.iter == 8
    own = resumed.model.state_dict()
    unequal = [k for k, v in whole[1].model.state_dict().items() if not torch.equal(v, own[k])]
    assert not unequal, unequal[:5]
    for key in ('best_members', 'best_members_epochs', 'best_score'):
        assert resumed.message_hub.get_info(key) == whole[1].message_hub.get_info(key)


def test_the_base_configs_fit_each_other():
    from light_training import ROOT
    from mmengine.config import Config

    base = ROOT / 'configs/_base_'
    runtime = Config.fromfile(base / 'segmentation_iter_runtime.py')
    schedule = Config.fromfile(base / 'schedules/adamw_20k.py')
    assert not set(runtime) & set(schedule)  # mmengine refuses bases with a key in common
    interval = schedule.train_cfg.val_interval
    assert runtime.default_hooks.checkpoint.interval == interval
    assert runtime.log_processor.by_epoch is runtime.default_hooks.checkpoint.by_epoch is False
