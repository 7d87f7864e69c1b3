"""`pretrain`: members that are trained first and then frozen, in one command."""

import argparse
import json
import os
import signal
import threading
import time

import pytest
import torch
from light_training import light_config
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from mmkd.apis.pretraining import Pretraining, freeze_pretrained
from mmkd.apis.training import train
from mmkd.export import config_text
from mmkd.utils.errors import ConfigError
from mmkd.utils.locks import wait_for_lock

pytestmark = pytest.mark.usefixtures('unformatted_configs')


class Cut(Exception):
    pass


@HOOKS.register_module(force=True)
class CutStageHook(Hook):
    """Ends the process's training after some iterations, whichever stage they are of."""

    priority = 'LOWEST'
    left = -1

    def after_train_epoch(self, runner):
        CutStageHook.left -= 1
        if CutStageHook.left == 0:
            raise Cut


@HOOKS.register_module(force=True)
class SignalStageHook(Hook):
    """Sends the process SIGTERM once, in the first training."""

    sent = False

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if not SignalStageHook.sent:
            SignalStageHook.sent = True
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def run(tmp_path):
    """Train in `tmp_path/<name>` from a config file; return the final weights."""

    def run(name, resume=None, cut=-1, hooks=(), changes=None, **pretrain):
        cfg = light_config(tmp_path / name)
        cfg.pretrain = dict(dict(members='teacher', options={'optim_wrapper.optimizer.lr': 0.05}))
        cfg.pretrain.update(pretrain)
        cfg.custom_hooks = [*cfg.custom_hooks, dict(type='CutStageHook'), *hooks]
        cfg.merge_from_dict(changes or {})
        file = tmp_path / 'recipe.py'
        file.write_text(config_text(cfg))
        CutStageHook.left = cut
        args = argparse.Namespace(config=str(file), work_dir=str(tmp_path / name), resume=resume)
        args.cfg_options, args.launcher, args.local_rank = {}, 'none', 0
        args.amp = args.auto_scale_lr = False
        train(args)
        state = torch.load(tmp_path / name / 'epoch_2.pth', weights_only=False)['state_dict']
        return {key: value for key, value in state.items() if key.startswith('members.')}

    return run


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_the_teacher_is_trained_first_then_frozen_and_not_trained_again(run, tmp_path, capsys):
    weights = run('first')
    stage = tmp_path / 'first/pretrain'
    assert {key.split('.')[1] for key in weights} == {'student1', 'student2'}
    teacher = torch.load(stage / 'epoch_2.pth', weights_only=False)
    assert {key.split('.')[1] for key in teacher['state_dict']} == {'teacher'}
    assert teacher['optimizer']['teacher']['param_groups'][0]['lr'] == 0.05
    dumped = Config.fromfile(tmp_path / 'first/recipe.py')
    assert dumped.model.members.teacher.training == 'frozen' and 'pretrain' not in dumped
    assert dumped.model.members.teacher.checkpoint == str(stage / 'epoch_2.pth')
    written = (stage / 'epoch_2.pth').stat().st_mtime_ns
    # A second run shares the stage, whose process draws nothing then: it ends alike.
    assert same(weights, run('second', work_dir=str(stage)))
    assert (stage / 'epoch_2.pth').stat().st_mtime_ns == written
    assert 'teacher: trained before' in capsys.readouterr().out

    cfg = Config.fromfile(tmp_path / 'recipe.py')
    freeze_pretrained(cfg, 'work/epoch_2.pth')  # as test.py does
    assert cfg.model.members.teacher.checkpoint == str(stage / 'epoch_2.pth')
    with pytest.raises(ConfigError, match='was trained by another config; remove'):
        run('third', work_dir=str(stage), options={'optim_wrapper.optimizer.lr': 0.04})
    with open(stage / 'epoch_2.pth', 'ab') as file:
        file.write(b'x')
    with pytest.raises(ConfigError, match='is not what the training has written; remove'):
        run('third', work_dir=str(stage))


def test_a_test_may_have_other_images_and_another_folder(run, tmp_path):
    run('first')
    cfg = Config.fromfile(tmp_path / 'recipe.py')
    cfg.test_dataloader.batch_size, cfg.work_dir = 4, str(tmp_path / 'elsewhere')
    cfg.test_evaluator = dict(type='SingleLabelMetric')
    freeze_pretrained(cfg, str(tmp_path / 'first/epoch_2.pth'))
    trained = tmp_path / 'first/pretrain/epoch_2.pth'
    assert cfg.model.members.teacher.checkpoint == str(trained)


def test_two_runs_with_one_stage_train_it_once(run, tmp_path, capsys):
    """The second one waits for the first, which holds the folder's lock."""
    run('first')
    stage = tmp_path / 'first/pretrain'
    record = (stage / 'pretrained.json').read_text()
    (stage / 'pretrained.json').unlink()
    done = []

    def first_process():
        with wait_for_lock(stage / 'lock'):
            held.set()
            while 'waiting for it' not in ''.join(said):
                said.append(capsys.readouterr().out)
                time.sleep(0.05)
            (stage / 'pretrained.json').write_text(record)
            done.append(True)

    held, said = threading.Event(), []
    thread = threading.Thread(target=first_process, daemon=True)
    thread.start()
    assert held.wait(60)
    written = (stage / 'epoch_2.pth').stat().st_mtime_ns
    run('second', work_dir=str(stage))
    thread.join(60)
    assert done and (stage / 'epoch_2.pth').stat().st_mtime_ns == written


def test_both_stages_go_on_where_they_were_cut_off(run, tmp_path):
    weights = run('whole')
    with pytest.raises(Cut):
        run('broken', cut=1)  # after the teacher's first epoch of two
    record = json.loads((tmp_path / 'broken/pretrain/pretrained.json').read_text())
    assert record['checkpoints'] is None and not (tmp_path / 'broken/epoch_1.pth').exists()
    with pytest.raises(ConfigError, match='teacher: not trained yet in .*train.py trains them'):
        freeze_pretrained(Config.fromfile(tmp_path / 'recipe.py'), 'epoch_2.pth')
    with pytest.raises(Cut):
        run('broken', resume='auto', cut=2)  # the teacher's second, the students' first
    assert (tmp_path / 'broken/epoch_1.pth').exists()
    assert same(weights, run('broken', resume='auto'))
    names = ('whole/pretrain/epoch_2.pth', 'broken/pretrain/epoch_2.pth')
    states = [torch.load(tmp_path / n, weights_only=False)['state_dict'] for n in names]
    assert same(*states)


@pytest.mark.parametrize('resume', [dict(resume='auto'), dict(changes=dict(resume=True))])
def test_a_preempted_stage_is_noted_and_goes_on(run, tmp_path, capsys, resume):
    """For a job script, which requeues; by the command line and by the config's own `resume`."""
    SignalStageHook.sent = False
    hooks = [dict(type='SignalStageHook')]
    with pytest.raises(SystemExit) as stopped:
        run('broken', hooks=hooks, work_dir=str(tmp_path / 'elsewhere'))
    assert stopped.value.code == 99
    note = (tmp_path / 'broken/pretrain_preempted').read_text()
    assert note == (tmp_path / 'elsewhere/last_checkpoint').read_text()
    assert note.endswith('preempted_iter_1.pth')
    capsys.readouterr()
    run('broken', hooks=hooks, work_dir=str(tmp_path / 'elsewhere'), **resume)
    assert f'--resume: {note}' in capsys.readouterr().out


def test_peers_of_another_config_become_the_teachers_of_one_student(run, tmp_path):
    """Ensemble into one student: the best of two peers' training, then a student alone."""
    peers = light_config(tmp_path / 'unused')
    peers.model.members.pop('teacher')
    peers.model.sharing = 'ml_p'
    (tmp_path / 'peers.py').write_text(config_text(peers))
    cfg = light_config(tmp_path / 'work')
    members = cfg.model.members
    cfg.model.members = dict(
        student1=members.student1, student2=members.student2, single=members.student1
    )
    cfg.model.sharing = None
    cfg.model.links = [
        dict(source=['student1', 'student2'], target='single', combine=dict(type='MeanProbability'))
    ]
    cfg.model.ensemble = dict(members=['single'])
    cfg.work_dir = str(tmp_path / 'work')
    cfg.pretrain = dict(
        members=['student1', 'student2'], config=str(tmp_path / 'peers.py'), use='best'
    )
    (tmp_path / 'single.py').write_text(config_text(cfg))
    args = argparse.Namespace(
        config=str(tmp_path / 'single.py'), work_dir=None, cfg_options={}, launcher='none'
    )
    args.resume, args.amp, args.auto_scale_lr, args.local_rank = None, False, False, 0
    train(args)
    exported = tmp_path / 'work/best_members'
    assert sorted(path.name for path in exported.iterdir()) == ['single.pth', 'single.py']
    dumped = Config.fromfile(tmp_path / 'work/single.py').model.members
    for name in ('student1', 'student2'):
        best = tmp_path / f'work/pretrain/best_members/{name}.pth'
        assert dumped[name].checkpoint == str(best) and best.is_file()
    state = torch.load(tmp_path / 'work/epoch_2.pth', weights_only=False)['state_dict']
    assert {k.split('.')[1] for k in state if k.startswith('members.')} == {'single'}


@pytest.mark.parametrize(
    'given, message',
    [
        ('teacher', "pretrain: expected a dict with 'members'"),
        (dict(members='teachr'), "pretrain.members: unknown name 'teachr'; did you mean 'teacher'"),
        (dict(members=[]), 'pretrain.members: expected a name or more'),
        (dict(member='teacher'), "pretrain.member: .* did you mean 'members'"),
        (dict(members='teacher', use='first'), 'pretrain.use: unknown'),
        (dict(members='teacher', options=[1]), 'pretrain.options: expected a dict'),
        (dict(members='teacher', config='no.py'), "no config file 'no.py'"),
    ],
)
def test_wrong_values(tmp_path, given, message):
    cfg = light_config(tmp_path)
    cfg.pretrain = given
    with pytest.raises(ConfigError, match=message):
        Pretraining.of(cfg)


def test_a_member_that_is_finished_is_not_trained_first(tmp_path):
    cfg = light_config(tmp_path)
    cfg.model.members.teacher.update(training='frozen', checkpoint='teacher.pth')
    cfg.pretrain = dict(members='teacher')
    with pytest.raises(ConfigError, match='members.teacher.checkpoint: .* drop one of the two'):
        Pretraining.of(cfg)


def test_a_studys_hook_asks_the_stage_for_none_of_the_metrics_of_the_end(tmp_path):
    cfg = light_config(tmp_path)
    cfg.pretrain = dict(members='teacher')
    cfg.custom_hooks = [dict(type='mmkd.StudyResultHook', expected=['student1/mDice'])]
    stage = Pretraining.of(cfg)
    assert stage.cfg.custom_hooks[0].expected == []
    assert cfg.custom_hooks[0].expected == ['student1/mDice']


UNLABELED = dict(batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=True))


@pytest.mark.parametrize(
    'changes, message',
    [
        (
            {'model.sharing.prediction': dict(type='PseudoLable')},
            r"model.sharing \(kd_p\)\[0\].loss.type: .*did you mean 'PseudoLabel'",
        ),
        (
            {'pretrain.members': ['teacher', 'student1', 'student2'], 'model.sharing': None},
            'no member is trained: .*after pretrain, with teacher, student1, student2 frozen',
        ),
        (
            {
                'pretrain.members': ['teacher', 'student1', 'student2'],
                'model.links': [dict(source='ensemble', target='student3')],
            },
            r"model.links\[0\].target: unknown name 'student3'",
        ),
        (
            {
                'pretrain.members': 'student1',
                'model.links': [dict(source='student2', target='student1')],
            },
            r"model.links\[0\].target: 'student1' is frozen and learns nothing",
        ),
        (
            {'pretrain.config': 'CONFIG', 'model.members.teacher.options': {'head.num_classes': 4}},
            'model.members.teacher.checkpoint: what pretrain trains does not fit .*head',
        ),
        ({'pretrain.options': {'model.sharin': 1}}, 'model.sharin: .*train_cfg$'),  # of the first
        ({'model.sharing.on': 'both'}, 'unlabeled_dataloader: must be given'),
        (
            {
                'model.sharing.on': 'both',
                'unlabeled_dataloader': dict(UNLABELED, dataset=dict(type='NoisyDatset')),
            },
            "unlabeled_dataloader.dataset.type: .* did you mean 'NoisyDataset'",
        ),
        (
            {
                'model.sharing.on': 'both',
                'unlabeled_dataloader': dict(
                    UNLABELED,
                    dataset=dict(type='mmkd.UnlabeledImages', data_root='none', pipeline=[]),
                ),
            },
            'no folder of unlabeled images',
        ),
        ({'optim_wrapper.members': dict(student1=dict(lr=1))}, 'optim_wrapper.members.student1'),
        ({'model.members.student1.checkpoint': 'none.pth'}, "student1.checkpoint: no file 'none"),
        ({'load_from': 'none.pth'}, "load_from: no file 'none.pth'"),
    ],
)
def test_what_is_wrong_with_the_second_stage_is_told_before_the_first(tmp_path, changes, message):
    """And nothing is left in the work folder."""
    first = light_config(tmp_path / 'unused')
    first.model.members = dict(teacher=first.model.members.teacher)
    first.model.sharing = None
    (tmp_path / 'first.py').write_text(config_text(first))
    cfg = light_config(tmp_path / 'work')
    cfg.pretrain = dict(members='teacher')
    cfg.model.sharing = dict(type='kd_p')
    cfg.merge_from_dict(changes)
    if cfg.pretrain.get('config') == 'CONFIG':
        cfg.pretrain.config = str(tmp_path / 'first.py')
    (tmp_path / 'recipe.py').write_text(config_text(cfg))
    args = argparse.Namespace(config=str(tmp_path / 'recipe.py'), work_dir=None, resume=None)
    args.cfg_options, args.launcher, args.local_rank = {}, 'none', 0
    args.amp = args.auto_scale_lr = False
    with pytest.raises(ConfigError, match=message):
        train(args)
    assert not (tmp_path / 'work').exists()
