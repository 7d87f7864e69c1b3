"""A checkpoint and a config dumped by mmkd's first release go on, and export, under this one."""

import copy
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

pytest.importorskip('mmpretrain')
from mmkd.export import export_member  # noqa: E402
from mmkd.utils.checkpoint import load_file  # noqa: E402

STAGE1 = Path(__file__).resolve().parents[1] / 'data/stage1'


@pytest.fixture
def config(data, tmp_path):
    cfg = Config.fromfile(STAGE1 / 'stage1.py')
    cfg.train_dataloader.dataset.dataset.data_root = f'{data}/'
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        loader.dataset.data_root = f'{data}/'
    cfg.work_dir, cfg.launcher = str(tmp_path), 'none'
    cfg.load_from, cfg.resume = str(STAGE1 / 'epoch_1.pth'), True
    cfg.train_cfg.max_epochs = 2
    cfg.visualizer.name = f'stage1_{tmp_path.name}'
    return cfg


def test_a_training_goes_on_with_every_weight_and_optimizer(config):
    state = load_file(config.load_from, 'checkpoint')
    runner = Runner.from_cfg(config)
    runner.load_or_resume()
    found = runner.model.state_dict()
    assert set(state['state_dict']) == set(found)
    assert all(torch.equal(found[key], value) for key, value in state['state_dict'].items())
    assert (runner.epoch, runner.iter) == (1, state['meta']['iter'])
    before = copy.deepcopy(found)
    runner.train()
    after = runner.model.state_dict()
    assert runner.epoch == 2
    for name in ('teacher', 'student1', 'student2', 'average'):
        assert any(
            not torch.equal(before[k], v)
            for k, v in after.items()
            if k.startswith(f'members.{name}.')
        )


def test_its_students_are_exported(config, tmp_path):
    state = load_file(config.load_from, 'checkpoint')['state_dict']
    checkpoint, plain = export_member(config, state, 'student2', tmp_path / 'student2.pth')
    own = {k[len('members.student2.') :]: v for k, v in state.items() if '.student2.' in k}
    exported = load_file(str(checkpoint), 'checkpoint')['state_dict']
    assert own.keys() == exported.keys()
    assert all(torch.equal(own[key], exported[key]) for key in own)
    assert 'mmkd' not in Path(plain).read_text()
