"""The plan of a study: what it must say, and that it is in git."""

import subprocess

import pytest
from small_study import small_study

from mmkd.apis.study import plan as plan_module
from mmkd.apis.study.plan import blob_hash
from mmkd.apis.study.results import (
    check_arms,
    config_hash,
    expected_metrics,
    run_config,
    write_config,
)


@pytest.fixture
def study(tmp_path, monkeypatch):
    return small_study(tmp_path, monkeypatch)


def test_a_plan_is_read(study):
    plan = study.write()()
    assert plan.name == 'small' and plan.root == study.root and plan.control == 'alone'
    assert plan.seeds == (0, 1, 2) and plan.higher_is_better and plan.max_minutes == 1
    (comparison,) = plan.comparisons
    assert (comparison.arm, comparison.control, comparison.at_least) == ('peers', 'alone', 1.0)
    assert comparison.members == comparison.control_members == ('student1', 'student2')


def test_without_comparisons_each_arm_is_compared_with_the_control(study):
    text = "comparisons = [dict(arm='peers', at_least=1.0, text='Peers help.')]\n"
    plan = study.write(text)()
    assert [c.arm for c in plan.comparisons] == ['peers', 'other']


def test_a_student_may_be_compared_with_an_ensemble(study):
    new = "dict(arm='alone', members=['student1'], control_members=['ensemble'], at_least=-0.5)"
    plan = study.write("dict(arm='peers', at_least=1.0, text='Peers help.')", new)()
    (comparison,) = plan.comparisons
    assert comparison.members == ('student1',) and comparison.control_members == ('ensemble',)
    assert expected_metrics(plan, 'alone') == [
        'ensemble/polyp/dice',
        'student1/polyp/dice',
        'student2/polyp/dice',
    ]
    assert expected_metrics(plan, 'peers') == ['student1/polyp/dice', 'student2/polyp/dice']


def test_the_plan_must_be_committed(study):
    load = study.write(commit=False)
    with pytest.raises(ValueError, match='the plan is not committed; commit it before'):
        load()
    assert load(trial=True).trial
    load = study.write()
    hashed = load().hash
    git_hash = subprocess.run(
        ['git', 'hash-object', str(study.folder / 'plan.py')], capture_output=True, text=True
    )
    assert hashed == git_hash.stdout.strip() == blob_hash(study.folder / 'plan.py')
    load = study.write('seeds = [0, 1, 2]', 'seeds = [0, 1]', commit=False)
    with pytest.raises(ValueError, match='the plan differs from the committed one'):
        load()


def test_a_trial_stays_outside_docs(study):
    plan = study.write()(trial=True)
    assert plan.folder == plan.runs == study.runs / 'small_trial'
    assert study.write()().folder == study.folder


@pytest.mark.parametrize(
    'old, new, message',
    [
        ("control = 'alone'", "control = 'peer'", "control: unknown name 'peer'; did you mean 'pe"),
        ("control = 'alone'", '', "'control' must be given"),
        ("title = 'A", "titel = 'A", "unknown name 'titel'; did you mean 'title'"),
        ("title = 'A small study'", 'title = 3', 'title: expected text, got 3'),
        ('seeds = [0, 1, 2]', 'seeds = [0, 0]', 'seeds: expected a list of different integers'),
        ('seeds = [0, 1, 2]', 'seeds = [-1]', 'seeds: expected'),
        ('seeds = [0, 1, 2]', 'seeds = [True]', 'seeds: expected'),
        ('seeds = [0, 1, 2]', 'seeds = 3', 'seeds: expected'),
        ("metric='polyp/dice'", 'metric=3', 'primary.metric: expected a metric'),
        ("['student1', 'student2']", "'student1'", 'primary.members: expected a list of names'),
        ("['student1', 'student2']", "['a', 'a']", 'primary.members: a name is there twice'),
        ("arm='peers'", "arm='peer'", r'comparisons\[0\].arm: unknown name'),
        ("arm='peers'", "arm='alone'", 'compared with itself'),
        ("arm='peers', ", '', r"comparisons\[0\]: 'arm' must be given"),
        ("text='Peers help.')", "text='a'), dict(arm='peers')", 'alone. is there twice; Holm'),
        ('controls = dict(alone=', 'controls = dict(alon=', "controls: unknown name 'alon'; did"),
        ('max_minutes=1', 'max_minutes=0', 'budget.max_minutes: expected a number'),
        ('at_least=1.0', "at_least='much'", 'at_least: expected a number'),
        ('at_least=1.0', 'at_lest=1.0', "unknown name 'at_lest'; did you mean 'at_least'"),
        ('max_minutes=1', 'max_minutes=-1', 'budget.max_minutes: expected a number'),
        ('other=dict(gain=1.0)', 'other=1', 'arms.other: expected a dict'),
        ('other=dict(gain=1.0)', "**{'a/b': {}}", "arms: 'a/b' is no name"),
        ("title = 'A", "_base_ = []\ntitle = 'A", 'without _base_'),
        ("title = 'A", "test = 'wilcoxon'\ntitle = 'A", "test: unknown name 'wilcoxon'"),
    ],
)
def test_wrong_plans(study, old, new, message):
    load = study.write(old, new)
    with pytest.raises(ValueError, match=message):
        load()


def test_changed_sources_are_noted_and_configs_are_not(monkeypatch):
    """What a config says is in the hash of the run's config."""
    asked = []

    def git(folder, *arguments):
        asked.append(arguments)
        return 'abc' if arguments[0] == 'rev-parse' else '?? mmkd/new.py'

    monkeypatch.setattr(plan_module, '_git', git)
    assert plan_module.source_commit() == 'abc+changes'
    assert asked[-1][:3] == ('status', '--porcelain', '--') and 'mmkd' in asked[-1]
    assert 'configs' not in asked[-1]


def test_runs_of_one_seed_are_pairs(study):
    plan = study.write()()
    alone, peers, later = (
        run_config(plan, arm, seed) for arm, seed in (('alone', 1), ('peers', 1), ('peers', 2))
    )
    assert alone.model.members.teacher is None and alone.gain == 0 and peers.gain == 2
    for name in ('student1', 'student2'):
        assert alone.model.members[name].seed == peers.model.members[name].seed
        assert peers.model.members[name].seed != later.model.members[name].seed
    assert peers.model.members.student1.seed != peers.model.members.student2.seed
    assert peers.randomness.seed == peers.data.subset.seed == peers.data.order[0].seed == 1
    assert run_config(plan, 'peers', 1).to_dict() == peers.to_dict()  # the plan is not changed


def test_the_hash_is_of_all_that_is_trained(study):
    plan = study.write()()
    hashes = check_arms(plan)
    assert len(set(hashes.values())) == 9
    first = run_config(plan, 'peers', 0)
    assert config_hash(first, study.root) == hashes['peers', 0]
    reordered = run_config(plan, 'peers', 0)
    members = reordered.model.members
    reordered.model.members = dict(reversed(list(members.items())))
    assert config_hash(reordered, study.root) == hashes['peers', 0]
    (study.root / 'config.py').write_text((study.root / 'config.py').read_text() + 'more = 1\n')
    assert check_arms(study.write()())['peers', 0] != hashes['peers', 0]


@pytest.mark.parametrize('key', ['model.members.student1.config', 'pretrain.config'])
def test_the_hash_is_of_the_networks_that_a_config_names(study, key):
    net = study.root / 'net.py'
    net.write_text('model = dict(depth=18)\n')
    cfg = run_config(study.write()(), 'alone', 0)
    cfg.merge_from_dict({key: str(net)})
    before = config_hash(cfg, study.root)
    assert config_hash(cfg, study.root) == before
    assert str(net) in str(cfg.to_dict()), 'the config itself is not changed'
    net.write_text('model = dict(depth=34)\n')
    assert config_hash(cfg, study.root) != before


def test_the_hash_does_not_depend_on_where_the_study_is_called_from(study, tmp_path, monkeypatch):
    (study.root / 'net.py').write_text('model = dict(depth=18)\n')
    cfg = run_config(study.write()(), 'alone', 0)
    cfg.merge_from_dict({'model.members.student1.config': 'net.py'})
    found = set()
    for folder in (study.root, tmp_path.parent):
        monkeypatch.chdir(folder)
        found.add(config_hash(cfg, study.root))
    assert len(found) == 1
    (study.root / 'net.py').write_text('model = dict(depth=34)\n')
    assert config_hash(cfg, study.root) not in found


@pytest.mark.parametrize(
    'old, new, message',
    [
        ('data.subset.seed', 'data.subset.sed', "seed_keys: no arm's config has 'data.subset.sed'"),
        ('other=dict(gain=1.0)', "other={'gain': 2.0}", "'peers' and 'other' are the same config"),
        ("{'gain': 2.0}", "{'gain.x': 2.0}", 'arms.peers: '),
        ("{'gain': 2.0}", '{1: 2.0}', 'arms.peers: '),
        (
            "{'model.members.teacher': None}",
            "{'model.members.teachr': None}",
            'arms.alone: model.members.teachr is dropped by None, model.members: unknown name '
            "'teachr'; did you mean 'teacher'",
        ),
        (
            "{'model.members.teacher': None}",
            'dict(model=dict(members=dict(teacher=None, studnt1=None)))',
            "model.members: unknown name 'studnt1'; did you mean 'student1'",
        ),
        (
            "members=['student1', 'student2']",
            "members=['student1', 'studnet2']",
            "arms.alone: a member whose figure is compared: unknown name 'studnet2'; did you mean "
            "'student2'",
        ),
        (
            "arm='peers', ",
            "arm='peers', members=['teacher'], ",
            "arms.alone: a member whose figure is compared: unknown name 'teacher'",
        ),
        ("config = 'config.py'", "config = 'confg.py'", 'no config file'),
    ],
)
def test_changes_that_do_not_fit(study, old, new, message):
    load = study.write(old, new)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        check_arms(load())


def test_a_config_is_written_in_its_own_order(study, tmp_path):
    from mmengine.config import Config

    plan = study.write()()
    cfg = run_config(plan, 'peers', 0)
    cfg.size = (64, 64)
    write_config(cfg, tmp_path / 'out.py')
    again = Config.fromfile(tmp_path / 'out.py')
    assert again.to_dict() == cfg.to_dict() and again.size == (64, 64)
    assert list(again.model.members) == ['teacher', 'student1', 'student2']
    cfg.end = float('inf')
    with pytest.raises(ValueError, match='end: a study needs a config of plain values, got inf'):
        write_config(cfg, tmp_path / 'out.py')
