"""Several test sets in one pass: each as if it were alone, their means, and the gap."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.evaluator import Evaluator
from mmengine.registry import DATASETS, EVALUATOR, init_default_scope
from mmengine.runner import Runner

from mmkd.datasets.converters.synthetic import write_synthetic_polyps
from mmkd.datasets.seen_unseen import set_configs
from mmkd.evaluation import seen_unseen_evaluator
from mmkd.export import plain_config
from mmkd.utils.errors import ConfigError
from mmkd.utils.test_sets import gap_tables

pytestmark = pytest.mark.usefixtures('unformatted_configs')

ROOT = Path(__file__).resolve().parents[2]
METRICS = dict(det=[dict(type='mmkd.PolypDetMetric')], seg=[dict(type='mmkd.PolypSegMetric')])


@pytest.fixture(scope='module')
def other(tmp_path_factory):
    """A second synthetic set, whose images have the numbers and names of the first one's."""
    root = tmp_path_factory.mktemp('data') / 'other'
    write_synthetic_polyps(root, train=2, val=3, size=64, seed=9)
    return root


def several(dataset, other):
    """Config of two seen sets and an unseen one with the arguments of one."""
    train = json.loads(json.dumps(dict(dataset)).replace('/val', '/train'))
    changes = {key: train[key] for key in ('data_prefix', 'ann_file') if key in train}
    return dict(
        type='mmkd.SeenUnseen',
        dataset=dict(dataset),
        seen=dict(home=dict(), home_train=changes),
        unseen=dict(away=dict(data_root=f'{other}/')),
    )


@pytest.fixture(autouse=True)
def _rank(monkeypatch):
    monkeypatch.setenv('LOCAL_RANK', '0')  # the tools set it for good


def trained(checkpoints, other, task, tmp_path):
    """Config of a test on several sets, and the arguments of tools/test.py."""
    path = checkpoints[task].with_name('config.py')
    cfg = Config.fromfile(path)
    single = cfg.test_dataloader.dataset.to_dict()
    cfg.test_dataloader.dataset = several(single, other)
    cfg.test_evaluator = dict(type='mmkd.SeenUnseenEvaluator', metrics=METRICS[task])
    cfg.work_dir = str(tmp_path / 'work')
    cfg.dump(tmp_path / 'config.py')
    names = ('config', 'checkpoint', 'out', 'show_dir', 'work_dir', 'seed')
    args = argparse.Namespace(**dict.fromkeys(names), launcher='none', local_rank=0)
    args.config, args.checkpoint = str(tmp_path / 'config.py'), str(checkpoints[task])
    args.member, args.cfg_options = ['student1', 'ensemble'], {}
    args.show = args.tta = args.out_logits = False
    return cfg, single, args


@pytest.mark.parametrize('task', ['det', 'seg'])
def test_each_set_as_if_alone_and_the_gap(checkpoints, data, other, task, tmp_path, capsys):
    from mmkd.apis import testing

    cfg, single, args = trained(checkpoints, other, task, tmp_path)
    args.out = str(tmp_path / 'out.pkl')
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        run = Runner.test
        patch.setattr(Runner, 'test', lambda runner: found.update(run(runner)) or found)
        testing.test(args)
        table = capsys.readouterr().out
        assert sorted(path.name for path in tmp_path.glob('out_*.pkl')) == sorted(
            f'out_{member}_{name}.pkl'
            for member in args.member
            for name in ('home', 'home_train', 'away')
        )
        sets = found.copy()
        args.out, args.config = None, str(tmp_path / 'one.py')
        cfg.test_dataloader.dataset = dict(single, data_root=f'{other}/')
        metric = dict(METRICS[task][0])
        if task == 'det':
            metric['ann_file'] = f'{other}/annotations/val.json'
        cfg.test_evaluator = metric
        cfg.dump(args.config)
        found.clear()
        testing.test(args)
    figure = dict(det='polyp/recall', seg='polyp/dice')[task]
    for member in args.member:
        alone = {key: value for key, value in found.items() if key.startswith(member)}
        assert len(alone) == len([key for key in sets if key.startswith(f'{member}/away/')])
        for key, value in alone.items():
            name = key.removeprefix(f'{member}/')
            np.testing.assert_equal(sets[f'{member}/away/{name}'], value)
            np.testing.assert_equal(
                sets[f'{member}/unseen/{name}'], value if value >= 0 else np.nan
            )
        home = [sets[f'{member}/{name}/{figure}'] for name in ('home', 'home_train')]
        assert sets[f'{member}/seen/{figure}'] == pytest.approx(sum(home) / 2)
        assert sets[f'{member}/gap/{figure}'] == pytest.approx(
            sum(home) / 2 - sets[f'{member}/away/{figure}']
        )
    header, *rows = table[table.rindex(f'  {figure} ') :].splitlines()[:3]
    assert header.split() == [figure, 'home', 'home_train', 'away', 'seen', 'unseen', 'gap']
    assert [row.split()[0] for row in rows] == args.member
    assert float(rows[0].split()[-1]) == pytest.approx(sets[f'student1/gap/{figure}'], abs=1e-3)


@pytest.mark.parametrize('path', sorted((ROOT / 'configs/mmkd/unseen').glob('*.py')))
def test_the_configs_measure_pranets_sets_with_the_pipeline_of_the_validation(path):
    cfg = Config.fromfile(path)
    test, val = cfg.test_dataloader.dataset, cfg.val_dataloader.dataset
    sets = set_configs(test.dataset, test.seen, test.unseen)
    assert list(sets) == [*test.seen, *test.unseen] and len(sets) == 5
    for name, one in sets.items():
        assert one['pipeline'] == val.pipeline and one['data_root'] == cfg.data_root
        assert one.get('img_suffix') == val.get('img_suffix')
        places = [*one['data_prefix'].values(), one.get('ann_file', f'test_{name}')]
        assert all(f'test_{name}' in place for place in places)
    assert cfg.train_dataloader.dataset.data_root == val.data_root == cfg.data_root
    if 'ann_file' in val:
        assert cfg.val_evaluator.ann_file == cfg.data_root + val.ann_file
    plain = plain_config(cfg, 'student1').test_dataloader.dataset
    assert plain.type == 'ConcatDataset' and len(plain.datasets) == 5
    assert not plain.datasets[0].type.startswith('mmkd.')


def test_under_test_time_augmentation(checkpoints, data, other, tmp_path, capsys):
    from mmkd.apis import testing

    _, _, args = trained(checkpoints, other, 'seg', tmp_path)
    args.tta = True
    testing.test(args)
    assert 'polyp/iou   home  home_train' in capsys.readouterr().out


def test_the_order_of_the_views_changes_no_figure(checkpoints, data, other, tmp_path):
    from mmkd.apis import testing

    cfg, _, args = trained(checkpoints, other, 'seg', tmp_path)
    cfg.test_evaluator = [dict(type='mmkd.PolypSegMetric'), dict(type='mmkd.Calibration')]
    cfg.test_dataloader.dataset = Config.fromfile(
        checkpoints['seg'].with_name('config.py')
    ).test_dataloader.dataset
    flips = cfg.tta_pipeline[-1].transforms[1]
    found = []
    with pytest.MonkeyPatch.context() as patch:
        run = Runner.test
        patch.setattr(Runner, 'test', lambda runner: found.append(run(runner)) or found[-1])
        for tta, views in ((True, flips), (True, flips[::-1]), (False, flips)):
            cfg.tta_pipeline[-1].transforms[1] = views
            cfg.dump(args.config)
            args.tta = tta
            testing.test(args)
    first, second, plain = found
    assert first == pytest.approx(second) and first != pytest.approx(plain)


def predictions(dataset):
    """Samples with the ground truth as the prediction, but for the set `away`: nothing there."""
    samples = []
    for i in range(len(dataset)):
        sample = pseudo_collate([dataset[i]])['data_samples'][0]
        sample.pred_sem_seg = sample.gt_sem_seg.clone()
        if sample.test_set == 'away':
            sample.pred_sem_seg.data = 0 * sample.pred_sem_seg.data
        samples.append(sample)
    return samples


def build(checkpoints, other, **kwargs):
    """A `mmkd.SeenUnseen` of label maps, and its evaluator."""
    init_default_scope('mmseg')
    cfg = Config.fromfile(checkpoints['seg'].with_name('config.py'))
    dataset = DATASETS.build(several(cfg.test_dataloader.dataset.to_dict(), other))
    evaluator = EVALUATOR.build(dict(type='mmkd.SeenUnseenEvaluator', **kwargs))
    evaluator.dataset_meta = dataset.metainfo
    return dataset, evaluator


def test_images_that_two_processes_measured_count_once(checkpoints, data, other, monkeypatch):
    dataset, evaluator = build(checkpoints, other, metrics=METRICS['seg'], figures=['polyp/dice'])
    samples = predictions(dataset)
    evaluator.process(samples[:8])
    first = evaluator.results
    evaluator.results = {name: [{}] for name in evaluator.sets}
    evaluator.process([*samples[8:], samples[0]])
    counts = [sum(len(part['home'][0]) for part in (first, evaluator.results)), 6]
    monkeypatch.setattr(
        seen_unseen_evaluator, 'all_gather_object', lambda results: [first, results]
    )
    figures = evaluator.evaluate(len(dataset))
    assert counts == [7, 6]
    empty = 100 * sum(not s.gt_sem_seg.data.any() for s in samples if s.test_set == 'away') / 3
    assert figures == {
        'home/polyp/dice': 100,
        'home_train/polyp/dice': 100,
        'away/polyp/dice': pytest.approx(empty),
        'seen/polyp/dice': 100,
        'unseen/polyp/dice': pytest.approx(empty),
        'gap/polyp/dice': pytest.approx(100 - empty),
    }
    assert not any(part for parts in evaluator.results.values() for part in parts)


def test_figures_that_some_sets_lack():
    evaluator = EVALUATOR.build(dict(type='mmkd.SeenUnseenEvaluator', metrics=[]))
    evaluator.sets = {name: dict(seen=name != 'c') for name in 'abc'}
    found = evaluator._with_gaps(
        dict(a=dict(ap=3.0, text='x'), b=dict(ap=-1, text='y'), c=dict(text='z'))
    )
    assert found['seen/ap'] == 3 and found['c/ap'] == 0 and found['gap/ap'] == 3
    assert found['a/text'] == 'x' and 'gap/text' not in found
    found = evaluator._with_gaps(dict(a=dict(ap=-1.0), b=dict(ap=-1.0), c=dict(ap=5.0)))
    assert np.isnan(found['seen/ap']) and np.isnan(found['gap/ap'])
    assert gap_tables(dict(one={'coco/mAP': 0.5})) == ''


@pytest.mark.parametrize(
    'change, message',
    [
        (dict(seen={}), r'SeenUnseen.seen: expected a dict with one set or more'),
        (dict(unseen=dict(gap={})), r"unseen: 'gap' cannot be the name of a set"),
        (dict(unseen=dict(home={})), r"unseen: 'home' is among the seen sets, too"),
        (dict(unseen=dict(away='x')), r"unseen.away: expected a dict, got 'x'"),
        (dict(dataset='x'), r"SeenUnseen.dataset: expected a dict, got 'x'"),
    ],
)
def test_wrong_sets(change, message):
    with pytest.raises(ConfigError, match=message):
        DATASETS.build(
            dict(dict(type='mmkd.SeenUnseen', dataset={}, seen=dict(home={}), unseen={}), **change)
        )


@pytest.mark.parametrize(
    'kwargs, message',
    [
        (dict(metrics=[dict(type='CocoMetric', ann_file='x.json')]), 'leave out the ann_file'),
        (dict(metrics=['x']), 'expected configs of metrics'),
        (dict(metrics=[], figures='polyp/f1'), 'figures: expected a list of names'),
    ],
)
def test_wrong_metrics(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        EVALUATOR.build(dict(type='mmkd.SeenUnseenEvaluator', **kwargs))


def test_other_data_sets_and_figures_are_refused(checkpoints, data, other):
    dataset, evaluator = build(checkpoints, other, metrics=METRICS['seg'], figures=['polyp/dise'])
    samples = predictions(dataset)
    evaluator.process(samples)
    with pytest.raises(ConfigError, match="figures: unknown name 'polyp/dise'; did you mean"):
        evaluator.evaluate(len(dataset))
    del samples[0].test_set
    with pytest.raises(ConfigError, match='does not say which set it is of'):
        evaluator.process(samples[:1])
    with pytest.raises(ConfigError, match="must be of type='mmkd.SeenUnseen'"):
        evaluator.dataset_meta = dict(classes=('polyp',))
    assert isinstance(evaluator, Evaluator)
