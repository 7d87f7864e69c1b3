"""What people and the visualisation backends get to read of a training."""

import json
import re
from importlib.util import find_spec

import pytest
from mmengine.runner import Runner

from mmkd.engine.log_processors import MemberLogProcessor

pytestmark = pytest.mark.usefixtures('unformatted_configs')
NAMES = ['teacher', 'student1', 'student2', 'ensemble']


@pytest.fixture(scope='module')
def trained(data, tmp_path_factory):
    """One short training: its folder, its log and the scalars written."""
    import conftest as toolkit
    from mmdet.utils import register_all_modules

    register_all_modules(True)
    work = tmp_path_factory.mktemp('logs')
    cfg = toolkit.small_config(
        data, work, **{'optim_wrapper.members': dict(teacher=dict(optimizer=dict(lr=5e-4)))}
    )
    cfg.experiment_name = 'logs'
    cfg.visualizer.vis_backends += [
        dict(type=name)
        for package, name in (
            ('tensorboard', 'TensorboardVisBackend'),
            ('wandb', 'mmkd.WandbVisBackend'),
        )
        if find_spec(package)
    ]
    cfg.custom_hooks.append(dict(type='mmkd.MemberVisualizationHook', indices=[0, 3]))
    monkeypatch = pytest.MonkeyPatch()
    for key, value in dict(MODE='offline', SILENT='true', DATA_DIR=work, CACHE_DIR=work).items():
        monkeypatch.setenv(f'WANDB_{key}', str(value))
    runner = Runner.from_cfg(cfg)
    runner.train()
    monkeypatch.undo()
    lines = (work / runner.timestamp / f'{runner.timestamp}.log').read_text().splitlines()
    scalars = [
        json.loads(line)
        for line in (work / runner.timestamp / 'vis_data/scalars.json').read_text().splitlines()
    ]
    return work, lines, scalars


def table_after(lines, start, count):
    """The cells of the `count` rows below the first line that contains `start`, and its heading."""
    at = next(i for i, line in enumerate(lines) if start in line)
    return lines[at], [line.split() for line in lines[at + 1 : at + 1 + count]]


def test_an_interval_is_one_line_and_a_row_for_each_member(trained):
    _, lines, scalars = trained
    head, (columns, *rows) = table_after(lines, 'Epoch(train)', 4)
    assert re.search(
        r'Epoch\(train\) +\[1\]\[1/3\]  eta: [\d:]+  time: [\d.]+  data_time: [\d.]+  '
        r'.*loss: [\d.]+$',
        head,
    )
    assert columns[:4] == ['member', 'lr', 'loss', 'grad_norm'] and {
        'loss_cls',
        'loss_bbox',
        'loss_obj',
        'links',
    } <= set(columns)
    assert [row[0] for row in rows] == NAMES[:3]
    first = scalars[0]
    for row in rows:
        values = dict(zip(columns, row))
        for key in ('loss', 'loss_cls', 'loss_bbox', 'loss_obj', 'grad_norm'):
            assert float(values[key]) == pytest.approx(first[f'{row[0]}/{key}'], abs=6e-5)
        assert float(values['lr']) == pytest.approx(first[f'{row[0]}.lr'], rel=1e-4)
    assert rows[0][-1] == f'{first["teacher/loss_obj"]:.4f}' or '[' not in ' '.join(
        rows[0]
    )  # the teacher learns from nobody
    assert 'kd[teacher:prediction]' in rows[1] and 'ml[student2:prediction]' in rows[1]
    shown = float(rows[1][rows[1].index('kd[teacher:prediction]') + 1])
    assert shown == pytest.approx(first['student1/loss_kd[teacher:prediction]'], abs=6e-5)


def test_rows_are_aligned(trained):
    at = next(i for i, line in enumerate(trained[1]) if 'Epoch(train)' in line)
    rows = trained[1][at + 1 : at + 5]
    end = rows[0].index(' loss ') + len(' loss')
    assert all(row[end - 1].isdigit() and row[end] == ' ' for row in rows[1:])


def test_an_evaluation_is_one_table(trained):
    _, lines, scalars = trained
    head, (columns, *rows) = table_after(
        [line for line in lines if 'eta' not in line], 'Epoch(val)', 5
    )
    assert 'bbox' not in head and 'time: ' in head and [row[0] for row in rows] == NAMES
    val = next(s for s in scalars if 'loss' not in s)
    for row in rows:
        for column, value in zip(columns[1:], row[1:]):
            if column == 'agreement' and row[0] != 'ensemble':  # it is of several
                assert value == '-'
            else:
                assert float(value) == pytest.approx(val[f'{row[0]}/{column}'], abs=6e-5)


def test_the_end_sums_up(trained):
    work, lines, scalars = trained
    head, (columns, *rows) = table_after(lines, 'Trained in 0:0', 5)
    vals = [s for s in scalars if 'loss' not in s]
    assert {row[0] for row in rows} == set(NAMES)
    for name, score, epoch, path in rows:
        metrics = [val[f'{name}/coco/bbox_mAP'] for val in vals]
        assert float(score) == pytest.approx(max(metrics), abs=6e-5) and metrics[
            int(epoch) - 1
        ] == max(metrics)
        assert path == ('-' if name == 'ensemble' else str(work / 'best_members' / f'{name}.pth'))


def test_a_validation_has_times_of_its_own(trained):
    vals = [s for s in trained[2] if 'loss' not in s]
    assert len(vals) == 2
    for val in vals:
        assert {'val/time', 'val/data_time'} <= set(val) and not {'time', 'data_time'} & set(val)


def by_step(scalars):
    """`{name: [(step, value), ...]}` of the lines of scalars.json."""
    found = {}
    for record in scalars:
        for name, value in record.items():
            if name != 'step':
                found.setdefault(name, []).append((record['step'], value))
    return found


def test_tensorboard_has_all_scalars_and_pictures(trained):
    accumulator = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    work, _, scalars = trained
    (folder,) = work.glob('*/vis_data')
    events = accumulator.EventAccumulator(str(folder), size_guidance={'images': 0}).Reload()
    expected = by_step(scalars)
    assert 'student1/loss_kd[teacher:prediction]' in expected
    assert {f'{name}/coco/bbox_mAP' for name in NAMES} <= set(expected)
    assert set(events.Tags()['scalars']) == set(expected)
    for name, points in expected.items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == [
            (step, pytest.approx(value, rel=1e-4, abs=1e-6)) for step, value in points
        ]
    assert {tag: [e.step for e in events.Images(tag)] for tag in events.Tags()['images']} == {
        'members_0': [1, 2],
        'members_3': [1, 2],
    }


def test_wandb_has_all_scalars_and_pictures_at_the_same_steps(trained):
    pytest.importorskip('wandb')
    work, _, scalars = trained
    (file,) = work.glob('*/vis_data/wandb/offline-run-*/run-*.wandb')
    metrics, scalar_points, pictures = set(), {}, {}
    for record in wandb_records(file):
        if record.HasField('metric'):
            metrics.add((record.metric.glob_name, record.metric.step_metric))
        if not record.HasField('history'):
            continue
        row = {
            '/'.join(item.nested_key) or item.key: json.loads(item.value_json)
            for item in record.history.item
        }
        for name, value in row.items():
            picture, _, part = name.partition('/')
            if picture.startswith('members_'):  # its path, its size, ...
                if part == 'path':
                    pictures.setdefault(picture, []).append(row['step'])
                    assert (file.parent / 'files' / value).is_file()
            elif not name.startswith('_') and name != 'step':
                scalar_points.setdefault(name, []).append((row['step'], value))
    assert metrics == {('*', 'step')}
    assert pictures == {'members_0': [1, 2], 'members_3': [1, 2]}
    expected = by_step(scalars)
    assert set(scalar_points) == set(expected)
    for name, points in expected.items():
        assert scalar_points[name] == [(s, pytest.approx(v, rel=1e-6)) for s, v in points]


def wandb_records(file):
    """The records of W&B's file: LevelDB's log format behind a head of seven bytes."""
    from wandb.proto import wandb_internal_pb2 as messages

    data, at, whole = file.read_bytes(), 7, b''
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block that holds no head
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(data[at + 4 : at + 6], 'little'), data[at + 6]
        whole += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield messages.Record.FromString(whole)
            whole = b''


class Recorder:
    """Stands in for the wandb module."""

    def __init__(self):
        self.logged, self.metrics, self.code, self.config, self.run = [], [], [], {}, self

    def init(self, **kwargs):
        self.settings = kwargs

    def define_metric(self, name, **kwargs):
        self.metrics.append((name, kwargs))

    def log(self, values, commit):
        self.logged.append(values)

    def log_code(self, name):
        self.code.append(name)

    def Image(self, image):
        return image.shape


@pytest.mark.parametrize('name', [None, 'code'])
def test_wandb_gets_steps_and_the_code_only_if_it_has_a_name(tmp_path, monkeypatch, name):
    import sys
    import types

    import numpy as np
    from mmengine.config import Config
    from mmengine.registry import VISBACKENDS

    wandb, seen = Recorder(), {}
    wandb.config = types.SimpleNamespace(update=lambda values, **_: seen.update(values))
    monkeypatch.setitem(sys.modules, 'wandb', wandb)
    backend = VISBACKENDS.build(
        dict(type='mmkd.WandbVisBackend', save_dir=str(tmp_path), log_code_name=name)
    )
    backend.add_config(Config(dict(lr=0.1)))
    backend.add_scalars({'student1/loss': 2.0}, step=7)
    backend.add_scalar('student1/lr', 0.1, 8)
    backend.add_image('members_0', np.zeros((4, 6, 3), np.uint8), step=1)
    assert wandb.logged == [
        {'student1/loss': 2.0, 'step': 7},
        {'student1/lr': 0.1, 'step': 8},
        {'members_0': (4, 6, 3), 'step': 1},
    ]
    assert wandb.metrics == [('*', dict(step_metric='step'))]
    assert seen == {'lr': 0.1} and wandb.code == ([] if name is None else [name])


def test_mlflow_gets_names_that_it_takes(toolkit, tmp_path, monkeypatch):
    mlflow = pytest.importorskip('mlflow')
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')
    from mmengine.config import Config
    from mmengine.registry import VISBACKENDS

    backend = VISBACKENDS.build(
        dict(
            type='mmkd.MLflowVisBackend',
            save_dir=str(tmp_path),
            exp_name='mmkd',
            tracking_uri=f'file://{tmp_path}/runs',
            artifact_suffix=(),
        )
    )
    backend.add_config(Config(dict(work_dir=str(tmp_path))))
    backend.add_scalars({'student1/loss_kd[teacher:prediction]': 0.5, 'loss': 1.0}, step=3)
    backend.add_scalar('student1/loss_ml[student2:backbone.layer4]', 2.0, 3)
    metrics = mlflow.get_run(mlflow.active_run().info.run_id).data.metrics
    backend.close()
    assert metrics == {
        'student1/loss_kd.teacher.prediction': 0.5,
        'loss': 1.0,
        'student1/loss_ml.student2.backbone.layer4': 2.0,
    }


@pytest.mark.parametrize(
    'name, plain',
    [
        ('student1/loss_kd[teacher:prediction]', 'student1/loss_kd.teacher.prediction'),
        ('student1/loss_kd[teacher:neck[1]]', 'student1/loss_kd.teacher.neck.1'),
        ('ensemble/coco/bbox_mAP_50', 'ensemble/coco/bbox_mAP_50'),
        ('student1.lr', 'student1.lr'),
    ],
)
def test_plain_names(name, plain):
    from mmkd.visualization.mlflow_backend import plain_name

    assert plain_name(name) == plain


def test_metrics_that_are_no_numbers_stand_below_the_table(toolkit):
    """A class-wise table or a confusion matrix; MMPretrain's is a tensor."""
    import types

    import torch
    from mmengine.logging import MessageHub

    from mmkd.engine.log_processors import MemberLogProcessor

    hub = MessageHub.get_instance('tables')
    matrix = torch.tensor([[3, 1], [0, 4]])
    hub.update_scalar('test/student1/accuracy', 87.5)
    hub.update_info('test/student1/confusion_matrix/result', matrix)
    runner = types.SimpleNamespace(
        model=toolkit.make_distiller(init=False),
        message_hub=hub,
        _train_loop=None,
        test_dataloader=range(4),
        test_loop=types.SimpleNamespace(dataloader=range(4)),
    )
    processor = MemberLogProcessor()
    tag, text = processor.get_log_after_epoch(runner, 4, 'test', with_non_scalar=True)
    lines = text.split('\n')
    assert lines[1].split() == ['member', 'accuracy']
    assert lines[2].split() == ['student1', '87.5000']
    assert lines[3:] == [
        '  student1/confusion_matrix/result:',
        '    tensor([[3, 1],',
        '            [0, 4]])',
    ]
    assert torch.equal(tag['student1/confusion_matrix/result'], matrix)


def test_a_table_that_is_too_wide_has_a_row_for_each_metric():
    processor = MemberLogProcessor()
    few = {'a': {'x': 1.0, 'y': 2.0}, 'b': {'x': 3.0}}
    assert [line.split() for line in processor._table(few).split('\n')] == [
        ['member', 'x', 'y'],
        ['a', '1.0000', '2.0000'],
        ['b', '3.0000', '-'],
    ]
    many = {name: {f'a_long_metric_{i}': float(i) for i in range(20)} for name in 'ab'}
    head, first, *rest = processor._table(many).split('\n')
    assert head.split() == ['metric', 'a', 'b'] and len(rest) == 19
    assert first.split() == ['a_long_metric_0', '0.0000', '0.0000']
