"""MetaMixer in a Runner: resuming, exports, two processes."""

import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip('mmseg')
pytest.importorskip('mmpretrain')
from mmengine.config import Config  # noqa: E402
from mmengine.runner import Runner  # noqa: E402

from mmkd.export import export_member  # noqa: E402

pytestmark = pytest.mark.usefixtures('unformatted_configs')


def small(toolkit, kind, data, work_dir):
    """The demo configs on 32 px frames, two epochs, a checkpoint every other iteration."""
    name = dict(resnet='msi_resnet_kdml_demo', unet='metamixer_polyp_unet_demo')[kind]
    cfg = Config.fromfile(toolkit.ROOT / f'configs/mmkd/{name}.py')
    for part in ('train_dataloader', 'val_dataloader'):
        cfg[part].dataset = cfg[part].dataset.get(
            'dataset', cfg[part].dataset
        )  # without what balances the classes
        cfg[part].batch_size = 4
        cfg[part].dataset.data_root = f'{data}/'
        for step in cfg[part].dataset.pipeline:
            if step.type == 'Resize':
                step.scale = 32 if kind == 'resnet' else (32, 32)
    cfg.test_dataloader = copy.deepcopy(cfg.val_dataloader)
    if kind == 'resnet':
        cfg.model.mixer = dict(
            type='MetaMixer', depths=(0, 1, 2, 3), global_prob=0.8, local_prob=0.8
        )
        cfg.train_dataloader.sampler = dict(type='mmkd.ClassPairedSampler')
        options = {'backbone.base_channels': 4, 'backbone.stem_channels': 4, 'head.in_channels': 32}
    else:
        cfg.model.data_preprocessor.size = (32, 32)
        options = {
            'backbone.base_channels': 4,
            'decode_head.in_channels': 4,
            'decode_head.channels': 4,
        }
    for member in cfg.model.members.values():
        if member is not None:
            member.options.update(options)
    cfg.work_dir, cfg.launcher, cfg.experiment_name = (
        str(work_dir),
        'none',
        f'{kind}_{Path(work_dir).name}_{os.getpid()}',
    )
    cfg.train_cfg.update(max_epochs=2, val_interval=2)
    cfg.default_hooks.checkpoint.update(
        by_epoch=False, interval=2, max_keep_ckpts=9, save_best=None
    )
    return cfg


@pytest.mark.parametrize('kind', ['resnet', 'unet'])
def test_a_resumed_run_equals_an_unbroken_one_and_exports_are_plain(toolkit, data, tmp_path, kind):
    from mmengine.registry import DefaultScope

    scope = dict(resnet='mmpretrain', unet='mmseg')[kind]
    DefaultScope.get_instance(f'mixer-run-{kind}', scope_name=scope)
    whole = Runner.from_cfg(small(toolkit, kind, data, tmp_path / 'whole'))
    whole.train()
    saved = tmp_path / 'whole/iter_4.pth'  # in the middle of the second epoch
    assert whole.iter >= 6
    state = torch.load(saved, weights_only=False)['mmkd_random_states']['ranks'][0]['mixer']
    assert isinstance(state['cpu'], torch.Tensor)
    cfg = small(toolkit, kind, data, tmp_path / 'resumed')
    cfg.resume, cfg.load_from = True, str(saved)
    torch.manual_seed(12345)  # another process starts with other states
    resumed = Runner.from_cfg(cfg)
    resumed.train()
    final, again = whole.model.state_dict(), resumed.model.state_dict()
    assert resumed.iter == whole.iter and not [
        key for key in final if not torch.equal(final[key], again[key])
    ]
    half = torch.load(saved, weights_only=False)['state_dict']
    assert any(not torch.equal(half[key], final[key]) for key in half)
    unmixed = small(toolkit, kind, data, tmp_path / 'unmixed')
    unmixed.model.mixer = None
    other = Runner.from_cfg(unmixed)
    other.train()
    assert any(
        not torch.equal(final[key], value) for key, value in other.model.state_dict().items()
    )
    for name in ('student1', 'ensemble'):
        checkpoint, config = export_member(whole.cfg, final, name, tmp_path / f'{name}.pth')
        text, plain = config.read_text(), Config.fromfile(config)
        assert 'mixer' not in text.lower() and ('mmkd' not in text or name == 'ensemble')
        assert (
            plain.train_dataloader.sampler.type
            == dict(student1='DefaultSampler', ensemble=whole.cfg.train_dataloader.sampler.type)[
                name
            ]
        )
    exported = torch.load(tmp_path / 'student1.pth', weights_only=True)['state_dict']
    assert exported.keys() == whole.model.network('student1').state_dict().keys()


def test_two_processes_draw_alike(toolkit):
    worker = Path(__file__).with_name('mixing_worker.py')
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--nproc_per_node=2',
            '--standalone',
            str(worker),
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
