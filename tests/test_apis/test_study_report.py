"""A study's report: its figures, its warnings, and that it is one whole page."""

import json
import xml.etree.ElementTree as ElementTree

import pytest
from small_study import small_study

from mmkd.apis.study.figure import ticks
from mmkd.apis.study.report import write_report
from mmkd.apis.study.results import check_arms
from mmkd.apis.study.summary import summarize

FIGURES = dict(alone=[50.0, 52.0, 51.0], peers=[53.0, 54.0, 55.0], other=[50.0, 53.0, 50.0])


@pytest.fixture
def study(tmp_path, monkeypatch):
    return small_study(tmp_path, monkeypatch)


def results(study, plan, figures, **changes):
    """Write results whose two students are 1 above and below the figure."""
    hashes = check_arms(plan)
    folder = study.folder / 'results'
    folder.mkdir(exist_ok=True)
    for arm, values in figures.items():
        for seed, value in zip(plan.seeds, values):
            metrics = {
                'student1/polyp/dice': value - 1,
                'student2/polyp/dice': value + 1,
                'ensemble/polyp/dice': value + 2,
                'student1/polyp/iou': 0.25,
            }
            result = dict(
                study='small',
                arm=arm,
                seed=seed,
                trial=False,
                plan_hash=plan.hash,
                config_hash=hashes[arm, seed],
                metrics=metrics,
                minutes=2.0,
                iterations=10,
                parameters=dict(student1=123456),
                mmkd='0.1.0',
                commits=['abc'],
                versions=dict(torch='2'),
            )
            result.update(changes)
            (folder / f'{arm}_seed{seed}.json').write_text(json.dumps(result))


def cells(text, start):
    """The cells of the Markdown line that starts so."""
    (line,) = [line for line in text.splitlines() if line.startswith(f'| {start} |')]
    return line.strip('| ').split(' | ')


def report(plan, **kwargs):
    """The Markdown report."""
    write_report(plan, **kwargs)
    return (plan.folder / 'report.md').read_text()


def test_the_figures_of_a_report(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    text = report(plan)
    assert 'not complete' not in text and '**Note:**' not in text
    assert cells(text, 'alone (control)')[1:7] == [
        '3 of 3',
        '51.00 ± 1.00',
        '50.00 ± 1.00',
        '52.00 ± 1.00',
        '53.00 ± 1.00',
        '2.0 ± 0.0',
    ]
    # Gains 3, 2, 4: t(2) = 3 / (1 / sqrt(3)) = 5.196, p = 0.0351; 4.303 / sqrt(3) = 2.48.
    assert cells(text, 'peers over alone') == [
        'peers over alone',
        '3',
        '+3.00',
        '+0.52 to +5.48',
        '0.2500',
        '0.0351',
        '0.2500',
        '3.26',
    ]
    assert cells(text, 'other over alone')[:4] == [
        'other over alone',
        '3',
        '+0.00',
        '-2.48 to +2.48',
    ]
    target = 'peers over alone, at least +1 (measured +3.00, +0.52 to +5.48). Peers help.'
    assert f'- met: {target}' in text
    assert 'Met: the mean reaches the target and the interval lies above 0' in text
    assert 'With 3 pairs p (sign flips) cannot be below 0.25.' in text
    assert cells(text, '1') == ['1', '52.00', '54.00', '53.00']
    assert 'cost: 18 minutes of training in 9 runs; budget: none' in text
    assert '## Also measured: polyp/iou' in text and '0.2500' in text and 'student1 0.12 M' in text
    assert '- alone: the same networks alone' in text


def test_the_page_is_well_formed_and_needs_no_other_file(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    write_report(plan)
    text = (study.folder / 'report.html').read_text()
    page = ElementTree.fromstring(text)
    assert page.find('body/h1').text == 'A small study'
    assert 'Peers &lt; 1 &amp; more' in text
    assert not any(word in text for word in ('src=', 'href=', '<script', '@import', 'url('))
    svg = '{http://www.w3.org/2000/svg}'
    (drawn,) = page.iter(f'{svg}svg')
    assert len(list(drawn.iter(f'{svg}polyline'))) == 3  # one a seed
    titles = [title.text for title in drawn.iter(f'{svg}title')]
    assert len(titles) == 9 and 'peers, seed 2: 55' in titles
    rows = [[cell.text for cell in row] for row in page.iter('tr')]
    assert ['1', '52.00', '54.00', '53.00'] in rows
    ElementTree.parse(study.folder / 'figure.svg')


def test_missing_seeds_are_said_and_targets_stay_open(study):
    plan = study.write()()
    results(study, plan, dict(FIGURES, peers=[53.0, 54.0]))
    text = report(plan)
    assert '**Note:** The study is not complete. peers: 2 of 3 seeds done.' in text
    assert '- open (2 of 3 seeds): peers over alone' in text
    assert cells(text, 'peers over alone')[:3] == ['peers over alone', '2', '+2.50']
    results(study, plan, dict(alone=[50.0, 52.0, 51.0]))
    for seed in range(3):
        (study.folder / f'results/peers_seed{seed}.json').unlink(missing_ok=True)
    text = report(plan)
    assert cells(text, 'peers over alone') == ['peers over alone', '0', *['-'] * 6]


@pytest.mark.parametrize(
    'target, gains, verdict',
    [
        ('1.0', [3, 2, 4], 'met'),
        ('3.5', [3, 2, 4], 'missed'),  # not reached
        ('1.0', [9, 0, 0], 'missed'),  # reached, but the interval holds 0
        ('-0.5', [0.1, 0.0, -0.1], 'met'),  # no worse than 0.5
        ('-0.5', [3, -3, 0], 'missed'),
    ],
)
def test_targets(study, target, gains, verdict):
    plan = study.write('at_least=1.0', f'at_least={target}')()
    control = FIGURES['alone']
    results(study, plan, dict(alone=control, peers=[c + g for c, g in zip(control, gains)]))
    (row,) = summarize(plan).planned
    assert row.verdict(3) == verdict


def test_a_run_without_a_number_on_one_side_of_one_arm_misses_the_target(study):
    """The ensemble of an arm against a student of the same."""
    new = (
        "dict(arm='peers', control='peers', members=['ensemble'], control_members=['student1'], "
        'at_least=1.0)]#'
    )
    plan = study.write("dict(arm='peers', at_least=1.0, text='Peers help.')", new)()
    results(study, plan, FIGURES)
    path = study.folder / 'results/peers_seed1.json'
    result = json.loads(path.read_text())
    result['metrics']['ensemble/polyp/dice'] = None
    path.write_text(json.dumps(result))
    assert '- missed (1 of 3 seeds without a number): peers' in report(plan)


def test_lower_may_be_better(study):
    plan = study.write("metric='polyp/dice'", "metric='polyp/dice', direction='lower'")()
    results(study, plan, FIGURES)
    (row,) = summarize(plan).planned
    assert row.paired.mean == pytest.approx(-3.0) and row.verdict(3) == 'missed'


def test_holm_is_over_the_planned_comparisons(study):
    new = "dict(arm='peers'), dict(arm='other'), dict(arm='peers', members=['ensemble'])"
    plan = study.write("dict(arm='peers', at_least=1.0, text='Peers help.')", f'{new}]#')()
    results(study, plan, FIGURES)
    summary = summarize(plan)
    assert [row.p_holm for row in summary.planned] == [0.75, 1.0, 0.75] and not summary.exploratory
    text = report(plan)
    assert cells(text, 'peers over alone [ensemble]')[1:3] == ['3', '+3.00']


def test_t_may_be_the_planned_test(study):
    plan = study.write("title = 'A", "test = 't'\ntitle = 'A")()
    results(study, plan, FIGURES)
    assert cells(report(plan), 'peers over alone')[6] == '0.0351'


def test_results_of_another_config_are_left_out_or_named(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    results(study, plan, dict(other=[60.0]), config_hash='another')
    text = report(plan)
    assert 'other seed 0: results of another config than the plan has now, left out.' in text
    assert '- | other' not in text and cells(text, 'other over alone')[1] == '2'
    text = report(plan, keep_stale=True)
    assert 'changed after these results were made: other seed 0.' in text
    assert cells(text, 'other over alone')[1] == '3'


def test_results_of_another_plan_are_named(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    results(study, plan, dict(peers=[53.0]), plan_hash='older')
    text = report(plan)
    assert 'The plan or the config was changed after these results were made: peers seed 0.' in text


def test_what_is_not_a_number_is_left_out_and_said(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    path = study.folder / 'results/peers_seed1.json'
    result = json.loads(path.read_text())
    result['metrics']['student2/polyp/dice'] = None
    path.write_text(json.dumps(result))
    text = report(plan)
    assert 'peers seed 1 has no number as student2/polyp/dice: it has no part in the' in text
    assert cells(text, 'peers over alone')[1] == '2'
    assert '- missed (1 of 3 seeds without a number): peers over alone' in text


def test_a_compared_ensemble_without_a_number_is_said(study):
    plan = study.write("arm='peers', ", "arm='peers', members=['ensemble'], ")()
    results(study, plan, FIGURES)
    path = study.folder / 'results/alone_seed2.json'
    result = json.loads(path.read_text())
    result['metrics']['ensemble/polyp/dice'] = None
    path.write_text(json.dumps(result))
    text = report(plan)
    assert 'alone seed 2 has no number as ensemble/polyp/dice' in text
    assert '- missed (1 of 3 seeds without a number): peers over alone [ensemble]' in text
    # The mean over both students was not planned here.
    assert 'Not planned as comparisons' in text and cells(text, 'peers over alone')[1] == '3'


def test_sources_in_no_commit_and_another_teacher_are_said(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    results(study, plan, dict(peers=[53.0]), commits=['abc+changes'], frozen=dict(teacher='1'))
    assert 'was not the same' not in report(plan)
    results(study, plan, dict(other=[50.0]), frozen=dict(teacher='2'))
    text = report(plan)
    assert 'Sources that are in no commit ("+changes"): peers seed 0.' in text
    assert "The frozen 'teacher' of t.pth was not the same in all runs." in text


def test_a_frozen_member_that_the_config_no_longer_has_tells_nothing(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    results(study, plan, dict(other=[60.0]), config_hash='another', frozen=dict(gone='1'))
    text = report(plan, keep_stale=True)
    assert 'changed after these results were made: other seed 0.' in text
    assert 'was not the same' not in text


def test_a_good_report_is_not_overwritten_by_dashes(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    before = report(plan)
    plan = study.write("metric='polyp/dice'", "metric='polyp/dise'")()
    results(study, plan, FIGURES)
    with pytest.raises(
        ValueError, match="'student1/polyp/dise'; did you mean 'student1/polyp/dice'"
    ):
        write_report(plan)
    for path in (study.folder / 'results').iterdir():
        path.unlink()
    with pytest.raises(ValueError, match='no results of this plan'):
        write_report(plan)
    assert (study.folder / 'report.md').read_text() == before


def test_damaged_and_foreign_results(study):
    plan = study.write()()
    results(study, plan, FIGURES)
    path = study.folder / 'results/peers_seed1.json'
    path.write_text((study.folder / 'results/peers_seed0.json').read_text())
    with pytest.raises(ValueError, match='no result of this run: its seed is 0, expected 1'):
        write_report(plan)
    for text in ('{', '[]', '3'):
        path.write_text(text)
        with pytest.raises(ValueError, match='peers_seed1.json: no result of a study'):
            write_report(plan)


@pytest.mark.parametrize(
    'changes, message',
    [
        (dict(study='other'), "its study is 'other', expected 'small'"),
        (dict(trial=True), 'its trial is True, expected False'),
        (dict(commits=None), "its 'commits' is None"),
        (dict(minutes='2'), "its 'minutes' is '2'"),
        (dict(versions=[]), r"its 'versions' is \[\]"),
        (dict(metrics={'student1/polyp/dice': 'x'}), "its 'student1/polyp/dice' is 'x'; expected"),
        (dict(metrics={'student1/polyp/dice': float('nan')}), 'is nan; expected a number or null'),
    ],
)
def test_results_that_no_study_wrote(study, changes, message):
    plan = study.write()()
    results(study, plan, FIGURES)
    path = study.folder / 'results/peers_seed0.json'
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    with pytest.raises(ValueError, match=f'peers_seed0.json: no result of .*{message}'):
        write_report(plan)


@pytest.mark.parametrize(
    'low, high, expected',
    [
        (0, 10, [0, 2, 4, 6, 8, 10]),
        (50.2, 52.9, [50, 51, 52, 53]),
        (0.012, 0.031, [0.01, 0.015, 0.02, 0.025, 0.03, 0.035]),
        (3, 3, None),
        (0, 0, None),
    ],
)
def test_ticks_are_round_and_hold_the_values(low, high, expected):
    found = ticks(low, high)
    assert found[0] <= low and found[-1] >= high and len(found) >= 2
    if expected is not None and low != 0.012:
        assert found == expected


def test_one_test_for_all_planned_rows_whatever_is_done(study):
    """Fourteen seeds planned: sign flips for the ten done, the t test once a row has thirteen."""
    seeds = list(range(14))
    plan = study.write('seeds = [0, 1, 2]', f'seeds = {seeds}')()
    values = {'alone': [50.0 + i % 3 for i in range(14)]}
    values['peers'] = [v + 1 + 0.1 * i for i, v in enumerate(values['alone'])]
    values['other'] = [v + 0.2 * (i % 2) for i, v in enumerate(values['alone'])]
    results(study, plan, {arm: row[:10] for arm, row in values.items()})
    text = report(plan)
    assert "Holm's p is of the exact sign-flip test" in text
    assert 'With 10 pairs p (sign flips) cannot be below 0.001953.' in text
    results(study, plan, {**values, 'other': values['other'][:10]})
    text = report(plan)
    assert "Holm's p is of the paired t test" in text and 'cannot be below' not in text
