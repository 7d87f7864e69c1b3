"""Arguments, configs and errors of the tools."""

import argparse
from pathlib import Path

import pytest
from mmengine.config import Config

from mmkd.apis.command_line import (
    Options,
    check_loaders,
    check_values,
    load_config,
    merge_options,
    metric_table,
    run_tool,
)
from mmkd.utils.errors import ConfigError, MachineError, message_of, wrong_paths


def options(*words):
    parser = argparse.ArgumentParser()
    parser.add_argument('--cfg-options', nargs='+', action=Options, default={})
    return parser.parse_args(['--cfg-options', *words]).cfg_options


def distiller(**member):
    return Config(
        dict(model=dict(members=dict(a=dict(config='x.py', **member))), hooks=[dict(n=1)])
    )


@pytest.mark.parametrize(
    'text, value',
    [
        ('3', 3),
        ('0.5', 0.5),
        ('true', True),
        ('None', None),
        ('[1,2]', [1, 2]),
        ('1,2', [1, 2]),
        ('(a,[b,2])', ('a', ['b', 2])),
        ('a=b', 'a=b'),
    ],
)
def test_values_are_read_as_mmengine_reads_them(text, value):
    assert merge_options(Config(dict(k=0)), options(f'k={text}')).k == value


def test_a_list_of_dicts_is_read_as_python_writes_it():
    link = dict(source=['a', 'b'], target='c', on='both')
    merged = merge_options(Config(dict(k=0)), options(f'k=[{link}, {link}]'))
    assert merged.k == [link, link]
    with pytest.raises(ConfigError, match=r'--cfg-options k=\[\{source: a\}\]: '):
        merge_options(Config(dict(k=0)), options('k=[{source: a}]'))


def test_a_dict_by_call_is_told_how_to_be_written():
    with pytest.raises(ConfigError, match=r'--cfg-options k=dict\(a=1,b=2\): expected a value, '):
        merge_options(Config(dict(k=0)), options('k=dict(a=1,b=2)'))


def test_a_key_below_a_members_options_drops_none_of_its_options():
    cfg = distiller(options={'bbox_head.num_classes': 3, 'neck.out_channels': 8})
    merge_options(cfg, options('model.members.a.options.bbox_head.feat_channels=16'))
    assert cfg.model.members.a.options == {
        'bbox_head.num_classes': 3,
        'neck.out_channels': 8,
        'bbox_head.feat_channels': 16,
    }
    merge_options(cfg, {'model.members.a.options.bbox_head.num_classes': '4'})
    assert cfg.model.members.a.options['bbox_head.num_classes'] == 4
    bare = merge_options(distiller(), {'model.members.a.options.neck.out_channels': '9'})
    assert bare.model.members.a.options == {'neck.out_channels': 9}


def test_the_networks_get_all_options():
    from mmkd.export import member_specs

    cfg = Config(
        dict(
            model=dict(
                members=dict(
                    a=dict(
                        config=dict(type='Net', head=dict(num_classes=80, channels=4)),
                        options={'head.num_classes': 3},
                    )
                )
            )
        )
    )
    merge_options(cfg, {'model.members.a.options.head.channels': '16'})
    assert member_specs(cfg)['a'].config.head == dict(num_classes=3, channels=16)


@pytest.mark.parametrize('word', ['x', '=x', ' =x'])
def test_an_option_without_key_or_value_is_a_wrong_command_line(word, capsys):
    with pytest.raises(SystemExit) as stop:
        options(word)
    assert stop.value.code == 2 and 'expected KEY=VALUE' in capsys.readouterr().err


@pytest.mark.parametrize(
    'key', ['hooks.first.n', 'model.members.b.options.x', 'hooks.7.n', 'model.members.a.config.x']
)
def test_an_option_that_fits_nowhere_is_named(key):
    with pytest.raises(ConfigError, match=f'--cfg-options {key}=1: '):
        merge_options(distiller(), {key: '1'})


@pytest.mark.parametrize('kind', [ConfigError, MachineError])
def test_what_a_user_can_mend_is_one_message(capsys, kind):
    def main():
        raise kind('model.x: unknown')

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    err = capsys.readouterr().err
    assert stop.value.code == 1 and 'error: model.x: unknown\n' in err and 'Traceback' not in err


@pytest.mark.parametrize(
    'error, text',
    [
        (MachineError(28, 'a checkpoint could not be saved'), 'a checkpoint could not be saved'),
        (OSError(28, 'No space left', 'work/x.log'), 'work/x.log: No space left'),
    ],
)
def test_a_full_disk_is_one_message(capsys, error, text):
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        run_tool(main)
    err = capsys.readouterr().err
    assert stop.value.code == 1 and f'error: {text}\n' in err and 'Traceback' not in err


@pytest.mark.parametrize('error', [KeyError('x'), ValueError('x'), OSError('x'), RuntimeError('x')])
def test_every_other_error_keeps_its_traceback(error):
    def main():
        raise error

    with pytest.raises(type(error)):
        run_tool(main)


def test_messages_without_traceback(tmp_path):
    (tmp_path / 'file').touch()
    expected = 'file: File exists .a folder is to be made there'
    with pytest.raises(ConfigError, match=expected), wrong_paths():
        (tmp_path / 'file').mkdir()
    assert message_of(KeyError('momentum')) == 'KeyError: momentum'
    assert message_of(KeyError('X is not in the registry')) == 'X is not in the registry'
    assert message_of(AssertionError()) == 'AssertionError'


def test_the_table():
    table = metric_table({'a/x': 0.5, 'b/x': 1, 'b/y': 'z'}, ['a', 'b'], {'x': 'X', 'y': '[y]'})
    assert table.splitlines() == ['member      X  [y]', 'a       0.500    -', 'b       1.000    z']


def test_a_table_too_wide_for_a_terminal_has_a_line_for_each_metric():
    columns = {f'x{i}': f'a_metric_with_a_long_name_{i}' for i in range(9)}
    metrics = {f'{row}/{x}': i for row in 'ab' for i, x in enumerate(columns)}
    first, second, *others = metric_table(metrics, ['a', 'b'], columns).splitlines()
    assert first.split() == ['metric', 'a', 'b']
    assert second.split() == ['a_metric_with_a_long_name_0', '0.000', '0.000'] and len(others) == 8


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(model=dict(members={})), 'model.type: must be given'),
        (dict(work_dir=3), 'work_dir: expected a path, got 3'),
        (dict(load_from=3), 'load_from: expected a path or URL, got 3'),
        (dict(resume='yes'), "resume: expected True or False, got 'yes'"),
        (dict(custom_hooks=dict(type='H')), 'custom_hooks: expected a list'),
        (dict(randomness=dict(seed='x')), 'randomness.seed: expected an integer in .0, 4294967295'),
        (dict(log_level='LOUD'), "log_level: unknown name 'LOUD'"),
    ],
)
def test_values_at_the_top_level(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_values(Config(dict(dict(model=dict(type='m')), **changes)))


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(train_cfg=dict(val_interval=0)), 'train_cfg.val_interval: .* got 0'),
        (dict(train_cfg=dict(val_begin=-3)), 'train_cfg.val_begin: .* got -3'),
        (dict(train_cfg=dict(max_epochs=10**30)), 'train_cfg.max_epochs: expected'),
        (dict(train_cfg=dict(dynamic_intervals=[(1, 0)])), r'train_cfg.dynamic_intervals\[0\]: '),
        (dict(train_dataloader=[1]), r'train_dataloader: expected a dict, got \[1\]'),
        (dict(train_dataloader=dict(dataset=[1])), 'train_dataloader.dataset: expected a dict'),
        (dict(train_dataloader=dict(dataset={}, batch_size=0)), 'train_dataloader.batch_size: '),
        (dict(val_cfg={}, val_dataloader=dict(dataset={})), 'val_evaluator: must be given'),
        (dict(train_dataloader=dict(dataset={})), 'train_dataloader.sampler: .* shuffle=True'),
        (
            dict(val_cfg={}, val_evaluator={}, val_dataloader=dict(dataset={}, batch_sampler={})),
            r"val_dataloader.sampler: must be given: dict\(type='DefaultSampler', shuffle=False",
        ),
        (
            dict(unlabeled_dataloader=dict(dataset={})),
            r"unlabeled_dataloader.sampler: must be given: dict\(type='DefaultSampler', .*=True",
        ),
    ],
)
def test_loops_and_loaders(changes, message):
    with pytest.raises(ConfigError, match=message):
        check_loaders(Config(changes))


def test_a_config_without_validation_is_none_of_those():
    cfg = Config(dict(model=dict(type='m'), train_cfg=dict(max_iters=3), val_cfg=None))
    check_values(cfg)
    check_loaders(cfg)


def test_columns_have_the_order_of_the_metrics_whatever_a_member_predicts():
    from mmkd.apis.testing import _rows_and_columns

    metrics = {f'b/coco/bbox_{name}': 0.5 for name in ('mAP', 'mAP_50', 'mAP_75', 'mAP_s')}
    metrics['b/coco/table'] = 'no number'
    _, rows, columns = _rows_and_columns(metrics, ['a', 'b'])
    assert rows == ['a', 'b']
    assert list(columns.values()) == ['bbox_mAP', 'bbox_mAP_50', 'bbox_mAP_75', 'bbox_mAP_s']


def test_compile_and_turns_reach_the_model_and_its_wrapper(tmp_path, monkeypatch):
    """mmengine's own `compile` would compile the training step; its own wrapper takes one pass."""
    import mmkd.utils.distributed

    base = Path(__file__).resolve().parents[2] / 'configs/mmkd/polyp_yolox_kdml_demo.py'
    (tmp_path / 'config.py').write_text(
        f"_base_ = '{base}'\ncompile = dict(backend='eager')\nmodel = dict(in_turns=True)\n"
    )
    monkeypatch.setattr(mmkd.utils.distributed, 'init_cpu_distributed', lambda launcher: True)
    for variable in ('RANK', 'LOCAL_RANK'):
        monkeypatch.setenv(variable, '0')
    args = argparse.Namespace(cfg_options={}, work_dir=None, local_rank=0, launcher='pytorch')
    cfg = load_config(str(tmp_path / 'config.py'), args)
    assert 'compile' not in cfg and cfg.model.compile == dict(backend='eager')
    assert cfg.model_wrapper_cfg == dict(
        type='mmkd.MemberDistributedDataParallel', device_ids=None, broadcast_buffers=False
    )


# ---------------------------------------------------------------- inherited from one network


def loaded(tmp_path, text, **options):
    (tmp_path / 'joint.py').write_text(text)
    args = argparse.Namespace(cfg_options=options, work_dir=None, local_rank=0, launcher='none')
    return load_config(str(tmp_path / 'joint.py'), args)


TOP = dict(num_classes=3, mean=[1.0] * 3, std=[2.0] * 3, to_rgb=True)
NETWORK = dict(type='ImageClassifier', _scope_='mmpretrain', backbone=dict(type='ResNet', depth=18))


def test_a_preprocessor_at_the_top_level_serves_networks_without_their_own(tmp_path):
    """Unasked, mmengine's Runner makes it that of all members."""
    from mmkd.export import member_specs

    own = dict(NETWORK, data_preprocessor=dict(num_classes=3, mean=[5.0] * 3, std=[6.0] * 3))
    (tmp_path / 'one.py').write_text(f'model = {NETWORK}\n')
    (tmp_path / 'other.py').write_text(f'model = {NETWORK}\ndata_preprocessor = {TOP}\n')
    members = dict(
        inline=dict(config=NETWORK, options={'data_preprocessor.num_classes': 4}),
        own=dict(config=own),
        none=dict(config=dict(NETWORK, data_preprocessor=None)),
        file=dict(config=str(tmp_path / 'one.py')),
        other=dict(config=str(tmp_path / 'other.py'), options={'data_preprocessor.to_rgb': False}),
        ema=dict(training='ema', of='own'),
        dropped=None,
    )
    model = dict(type='mmkd.OnlineDistiller', members=members)
    text = f'data_preprocessor = {TOP}\nmodel = {model}\n'
    cfg = loaded(tmp_path, text)
    assert 'data_preprocessor' not in cfg and 'data_preprocessor' not in cfg.model
    found = {name: spec.config.data_preprocessor for name, spec in member_specs(cfg).items()}
    kind = dict(type='ClsDataPreprocessor', batch_augments=None)
    assert found['inline'] == dict(TOP, **kind, num_classes=4)
    assert found['own'] == found['ema'] == dict(own['data_preprocessor'], **kind)
    assert found['none'] is None
    assert found['file'] == dict(TOP, **kind)
    assert found['other'] == dict(TOP, **kind, to_rgb=False)
    shared = loaded(tmp_path, text, **{'model.data_preprocessor': dict(TOP, mean=[9.0] * 3)})
    assert 'data_preprocessor' not in shared and shared.model.data_preprocessor.mean == [9.0] * 3
    assert 'data_preprocessor' not in shared.model.members.inline.config


def test_one_network_keeps_its_preprocessor_at_the_top_level(tmp_path):
    cfg = loaded(tmp_path, f'model = {NETWORK}\ndata_preprocessor = {TOP}\n')
    assert cfg.data_preprocessor == TOP


@pytest.mark.parametrize(
    'kind, by_epoch', [('mmkd.ResumableTrainLoop', True), ('ResumableIterTrainLoop', False)]
)
def test_an_inherited_by_epoch_stands_beside_the_loop_that_counts_so(tmp_path, kind, by_epoch):
    """As MMPretrain's schedules have it; mmengine refuses both."""
    model = f'model = {NETWORK}\n'
    cfg = loaded(tmp_path, f'{model}train_cfg = dict(type={kind!r}, by_epoch={by_epoch})')
    assert cfg.train_cfg == dict(type=kind)
    text = f'{model}train_cfg = dict(type={kind!r}, by_epoch={not by_epoch})'
    with pytest.raises(ConfigError, match=f'train_cfg.by_epoch: expected {by_epoch} with {kind}'):
        loaded(tmp_path, text)


def test_other_loops_are_left_alone(tmp_path):
    loop = dict(type='IterBasedTrainLoop', by_epoch=False)
    assert loaded(tmp_path, f'model = {NETWORK}\ntrain_cfg = {loop}\n').train_cfg == loop
