import json
import os
import subprocess
import sys
import time

import pytest
import torch
from light_training import light_config


def test_joint_step_against_plain_steps(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.dump(tmp_path / 'config.py')
    done = subprocess.run(
        [
            sys.executable,
            str(toolkit.ROOT / 'tools/benchmark.py'),
            str(tmp_path / 'config.py'),
            '--steps',
            '2',
        ],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS='1'),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {
        line.split()[0]: line.split() for line in done.stdout.splitlines() if len(line.split()) == 3
    }
    assert {'teacher', 'student1', 'student2', 'joint'} <= set(rows)
    assert all(
        float(rows[name][1]) > 0 and float(rows[name][2]) > 0 for name in ('teacher', 'joint')
    )
    assert 'joint / sum: time' in done.stdout


def step_twice(toolkit, cfg):
    from mmkd.apis.benchmark import Step

    step = Step(cfg, 'cpu')
    return [step(toolkit.make_batch(n=2)) for _ in range(2)]


def test_an_ema_member_is_updated_as_in_training(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.model.members.pop('student2')
    cfg.model.ensemble = None
    cfg.model.members.average = dict(training='ema', of='student1')
    cfg.model.sharing = dict(type='kd_p', students=['student1'])
    assert all(seconds > 0 for seconds in step_twice(toolkit, cfg))


def test_links_whose_schedule_ends_at_0_are_measured(light):
    from mmkd.apis.benchmark import Step, cached_batches, prepare

    cfg = prepare(light, {})
    cfg.model.sharing.schedule = dict(type='Trapezoid')
    step, computed = Step(cfg, 'cpu'), []
    for link in step.model.links:
        link.register_forward_hook(lambda *arguments: computed.append(arguments[0]))
    step(cached_batches(cfg, 1)[0])
    assert computed == list(step.model.links) and computed


def test_unlabeled_images_are_part_of_the_step_that_learns_from_them(light):
    from mmkd.apis.benchmark import Step, cached_batches, copy_batch, prepare
    from mmkd.export import plain_config

    cfg = prepare(light, {})
    cfg.unlabeled_dataloader = dict(cfg.train_dataloader, batch_size=2)
    batch = cached_batches(cfg, 2)[1]
    copied = copy_batch(batch)['unlabeled']
    assert len(batch['inputs']) == 4 and len(copied['inputs']) == 2
    assert copied['inputs'] is not batch['unlabeled']['inputs']
    assert copied['data_samples'][0] is not batch['unlabeled']['data_samples'][0]
    taken = []
    for on in ('both', 'labeled', None):
        cfg.model.sharing.on = on
        step = Step(plain_config(cfg, 'student1') if on is None else cfg, 'cpu')
        step.model.train_step = lambda data, wrapper, own=step.model.train_step: (
            taken.append('unlabeled' in data),
            own(data, wrapper),
        )
        step(copy_batch(batch))
    assert taken == [True, False, False]


def test_each_side_of_a_comparison_has_batches_of_its_own(light, monkeypatch):
    from mmkd.apis import benchmark

    sizes, call = [], benchmark.Step.__call__
    monkeypatch.setattr(
        benchmark.Step,
        '__call__',
        lambda step, batch, clock: sizes.append(len(batch['inputs'])) or call(step, batch, clock),
    )
    benchmark.compare_time(light, {}, {'train_dataloader.batch_size': 2}, 1, 'cpu')
    assert sizes == [2, 4, 4, 2, 2, 4]  # in turn


def test_a_loader_without_a_batch_is_told(light):
    from mmkd.apis.benchmark import cached_batches, prepare
    from mmkd.utils.errors import ConfigError

    cfg = prepare(light, {})
    cfg.train_dataloader.update(batch_size=32, drop_last=True)
    with pytest.raises(
        ConfigError, match='train_dataloader: 12 images give no batch of batch_size=32'
    ):
        cached_batches(cfg, 1)


def test_an_auto_encoder_that_a_hook_would_train_before(toolkit, data, tmp_path):
    cfg = toolkit.small_config(data, tmp_path / 'work')
    cfg.model.members = dict(teacher=cfg.model.members.teacher, student1=cfg.model.members.student1)
    network = toolkit.make_distiller(members=dict(teacher=cfg.model.members.teacher))
    torch.save(network.network('teacher').state_dict(), tmp_path / 'teacher.pth')
    cfg.model.members.teacher.update(training='frozen', checkpoint=str(tmp_path / 'teacher.pth'))
    link = dict(source='teacher', target='student1', tap='backbone.stage4')
    link.update(
        source_connector=dict(type='FactorAutoEncoder'),
        connector=dict(type='ConvConnector'),
        loss=dict(type='FeatureMSE'),
    )
    cfg.model.sharing, cfg.model.ensemble, cfg.model.links = None, None, [link]
    assert all(seconds > 0 for seconds in step_twice(toolkit, cfg))


@pytest.fixture
def light(tmp_path):
    """The file of a training's config that takes a second."""
    light_config(tmp_path / 'work').dump(tmp_path / 'config.py')
    return str(tmp_path / 'config.py')


def test_epochs_by_part(light):
    from mmkd.apis.epoch import TOTALS, epoch_table, profile_epochs

    found = json.loads(json.dumps(profile_epochs(light, {}, 1, time.perf_counter())))
    assert (found['steps'], found['epochs'], found['workers']) == (3, 1, 0)
    for name, needed in (('training', 'steps'), ('validation', 'forwards')):
        parts = found[name]
        ratio = parts.pop('ratio')
        left_out = {*TOTALS, 'evaluation', 'plain_ratio'}
        each = [value['wall'] for key, value in parts.items() if key not in left_out]
        assert sum(each) == pytest.approx(parts['total']['wall'])
        assert min(parts[key]['cpu'] for key in (needed, 'checkpoints', 'alone')) > 0
        total = parts['total']['cpu'] / parts['alone']['cpu']
        assert ratio['cpu'] == pytest.approx(total)
        parts['ratio'] = ratio
        if name == 'validation':
            measured = parts['total']['cpu'] - parts['checkpoints']['cpu']
            assert parts['plain_ratio']['cpu'] == pytest.approx(measured / parts['plain']['cpu'])
    parts = [value for key, value in found['start'].items() if key != 'total']
    assert sum(parts) == pytest.approx(found['start']['total'])
    table = epoch_table(found)
    assert '| **validation / networks alone** |' in table
    assert '| validation without checkpoints / plain ones |' in table


def test_students_by_form(light):
    from mmkd.apis.peers import FORMS, measure_students, students_table

    found = measure_students(light, {}, (1, 3), 1, 'cpu')
    assert list(found[1]) == ['no links'] and list(found[3]) == list(FORMS)
    assert [line.split()[0] for line in students_table(found).splitlines()] == [
        'students',
        '1',
        '3',
    ]


def test_other_software_does_the_same_work(light):
    """One frozen teacher and a student: the same weights after two steps."""
    from mmkd.apis.benchmark import cached_batches, copy_batch, prepare
    from mmkd.apis.other_loops import WITHOUT_LINK, build_loops

    cfg = prepare(light, {})
    loops = build_loops(cfg, 'cpu')
    assert {'mmkd', WITHOUT_LINK, 'by hand'} <= set(loops)
    for batch in cached_batches(cfg, 2):
        for loop in loops.values():
            loop(copy_batch(batch))
    own = loops.pop('mmkd').model.network('student1').state_dict()
    alone = loops.pop(WITHOUT_LINK).model.state_dict()
    for loop in loops.values():
        for key, value in loop.student.state_dict().items():
            torch.testing.assert_close(value, own[key], rtol=1e-4, atol=1e-5)
    assert any(not torch.allclose(value, own[key], rtol=1e-3) for key, value in alone.items())


def test_times_of_other_software(light):
    from mmkd.apis.other_loops import compare_loops, loops_table
    from mmkd.utils.errors import ConfigError

    found = compare_loops(light, {}, 1, 'cpu')
    assert all(len(values) == 1 and values[0] > 0 for values in found.values())
    assert loops_table(found).splitlines()[1].startswith('mmkd ')
    with pytest.raises(ConfigError, match='--others: expected a config of classifiers'):
        compare_loops(light, {'default_scope': 'mmdet'}, 1, 'cpu')
