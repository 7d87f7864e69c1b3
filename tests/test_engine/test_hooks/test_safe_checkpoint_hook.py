import multiprocessing
import types
from pathlib import Path

import pytest
import torch
from mmengine.hooks import EarlyStoppingHook
from mmengine.logging import MessageHub
from mmengine.optim import ReduceOnPlateauLR

from mmkd.engine.hooks import SafeCheckpointHook
from mmkd.engine.hooks.safe_checkpoint_hook import locked
from mmkd.utils.errors import ConfigError

NAMES = ['student1', 'ensemble']


class Saver:
    """As much of a Runner as saving needs; a checkpoint holds the message hub, as mmengine's do."""

    def __init__(self, work_dir, hooks=(), schedulers=None, names=NAMES, **options):
        self.work_dir, self.epoch, self.iter = str(work_dir), 0, 0
        self.message_hub = MessageHub.get_instance('saver')
        self.logger = types.SimpleNamespace(info=print, warning=print)
        self.max_epochs, self.calls = 99, []
        self.val_loop = types.SimpleNamespace(names=names)
        self.model = types.SimpleNamespace(evaluated=['student1', 'student2', 'ensemble'])
        self.hooks, self.param_schedulers = hooks, schedulers
        if names is None:
            del self.val_loop.names
        self.hook = SafeCheckpointHook(interval=1, max_keep_ckpts=2, **options)
        self.hook.before_train(self)

    def call_hook(self, name):
        self.calls.append(name)

    def save_checkpoint(self, out_dir, filename, *args, **kwargs):
        info = dict(self.message_hub.runtime_info)
        torch.save(info, f'{out_dir}/{filename}')

    def train_epoch(self):
        self.hook.after_train_epoch(self)
        self.epoch += 1

    def epochs(self):
        return sorted(int(p.stem.split('_')[1]) for p in Path(self.work_dir).glob('epoch_*.pth'))


@pytest.fixture
def saver(tmp_path):
    return Saver(tmp_path)


def resumed(saver, epoch):
    """A new process that goes on from the checkpoint of an epoch."""
    saver.hook.after_run(saver)
    MessageHub._instance_dict.clear()
    again = Saver(saver.work_dir)
    info = torch.load(f'{saver.work_dir}/epoch_{epoch}.pth', weights_only=True)
    for key, value in info.items():
        again.message_hub.update_info(key, value)
    again.epoch = epoch
    again.hook.before_train(again)
    return again


def test_no_checkpoint_is_left_over_after_a_resume(saver):
    for _ in range(3):
        saver.train_epoch()
    assert saver.epochs() == [2, 3]
    for epoch in (3, 4, 5):  # killed after each epoch
        saver = resumed(saver, epoch)
        saver.train_epoch()
        assert saver.epochs() == [epoch, epoch + 1]


def test_a_kill_between_saving_and_removing_leaves_nothing_either(saver, monkeypatch):
    for _ in range(2):
        saver.train_epoch()
    with monkeypatch.context() as patch:
        patch.setattr('os.remove', lambda path: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            saver.train_epoch()
    assert saver.epochs() == [1, 2, 3]
    assert resumed(saver, 3).epochs() == [2, 3]


def test_all_ranks_tell_what_a_checkpoint_keeps_of_them(saver):
    saver.train_epoch()
    assert saver.calls == ['before_saving']


def hold(folder, ready, done):
    lock = locked(folder)
    ready.set()
    done.wait(60)
    lock.close()


def test_two_trainings_do_not_write_to_one_folder(tmp_path):
    context = multiprocessing.get_context('fork')
    ready, done = context.Event(), context.Event()
    other = context.Process(target=hold, args=(str(tmp_path), ready, done))
    other.start()
    try:
        assert ready.wait(60)
        with pytest.raises(ValueError, match='work_dir: another training writes to'):
            Saver(tmp_path)
    finally:
        done.set()
        other.join()
    Saver(tmp_path)  # free again


def test_a_metric_of_no_member_is_refused_before_the_training(tmp_path):
    for wrong, right in (
        ('coco/bbox_mAP', 'ensemble/coco/bbox_mAP'),
        ('student2/coco/bbox_mAP', "did you mean 'ensemble/coco/bbox_mAP'"),
    ):
        with pytest.raises(ConfigError, match=f"save_best: '{wrong}' names none of .*{right}"):
            Saver(tmp_path, save_best=wrong, rule='greater')
    saver = Saver(tmp_path, save_best='ensemble/coco/mAP', rule='greater')
    with pytest.raises(ConfigError, match="save_best.*did you mean 'ensemble/coco/bbox_mAP'"):
        saver.hook.after_val_epoch(saver, {'ensemble/coco/bbox_mAP': 0.5})


@pytest.mark.parametrize('monitor', ['coco/bbox_mAP', 'student1/coco/bbox_mAP'])
def test_what_waits_for_a_metric_names_a_member(tmp_path, monitor):
    weights = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    waits = dict(
        hooks=[EarlyStoppingHook(monitor=monitor)],
        schedulers=dict(student1=[ReduceOnPlateauLR(weights, monitor=monitor)]),
    )
    keys = dict(hooks='custom_hooks.EarlyStopping', schedulers='param_scheduler.ReduceOnPlateauLR')
    for name, value in waits.items():
        if monitor.startswith('student1'):
            saver = Saver(tmp_path, **{name: value})
            saver.hook.after_run(saver)
        else:
            with pytest.raises(ConfigError, match=f"{keys[name]}.*did you mean 'ensemble/coco"):
                Saver(tmp_path, **{name: value})


def test_members_metrics_need_their_own_validation_loop(tmp_path):
    with pytest.raises(ConfigError, match="save_best: 'student1/coco/mAP'.*mmkd.MemberValLoop"):
        Saver(tmp_path, names=None, save_best='student1/coco/mAP', rule='greater')
    Saver(tmp_path, names=None, save_best='coco/mAP', rule='greater')


def test_an_interval_that_never_saves_is_refused():
    with pytest.raises(ValueError, match='checkpoint.interval: 0 would never save'):
        SafeCheckpointHook(interval=0)
