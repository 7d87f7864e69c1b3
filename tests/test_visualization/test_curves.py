import json

import pytest
from matplotlib.figure import Figure

from mmkd.utils.errors import ConfigError
from mmkd.visualization import draw_curves
from mmkd.visualization.curves import read_scalars


@pytest.fixture
def figures(monkeypatch):
    """The figures that are saved."""
    saved = []
    original = Figure.savefig

    def savefig(figure, out, **kwargs):
        saved.append(figure)
        original(figure, out, **kwargs)

    monkeypatch.setattr(Figure, 'savefig', savefig)
    return saved


def write(work_dir, run, *records):
    folder = work_dir / run / 'vis_data'
    folder.mkdir(parents=True)
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, records)))


def trained(step, value, **more):
    return {
        'loss': value,
        'a/loss': value,
        'a/loss_kd[b:prediction]': value / 2,
        'step': step,
    } | more


def test_a_resumed_run_replaces_what_it_repeats(tmp_path):
    write(tmp_path, '20260101', trained(10, 3.0), trained(20, 2.0), {'a/m': 0.1, 'step': 1})
    write(tmp_path, '20260102', trained(20, 1.5), {'a/m': 0.2, 'step': 2, 'a/table': 'x'})
    train, val = read_scalars(tmp_path)
    assert train['a/loss'] == {10: 3.0, 20: 1.5} and val == {'a/m': {1: 0.1, 2: 0.2}}


def test_a_training_begun_anew_has_nothing_of_the_one_before(tmp_path):
    before = [trained(step, 0.9) for step in (10, 20, 30, 40)]
    write(tmp_path, '20260101', *before, *({'a/m': 0.9, 'step': i} for i in range(1, 7)))
    anew = [trained(step, 0.1) for step in (10, 20)]
    write(tmp_path, '20260102', *anew, *({'a/m': 0.1, 'step': i} for i in range(1, 4)))
    train, val = read_scalars(tmp_path)
    assert train['a/loss'] == {10: 0.1, 20: 0.1} and val == {'a/m': {1: 0.1, 2: 0.1, 3: 0.1}}


def test_points_of_a_resumed_run_are_in_order(tmp_path):
    write(tmp_path, '20260101', *(trained(step, 1.0) for step in (10, 20, 30, 40)))
    write(tmp_path, '20260102', *(trained(step, 2.0) for step in (25, 35)))
    train, _ = read_scalars(tmp_path)
    assert list(train['a/loss'].items()) == [(10, 1.0), (20, 1.0), (25, 2.0), (35, 2.0)]


def test_a_folder_without_logs_is_named(tmp_path):
    with pytest.raises(ConfigError, match='was it trained with LocalVisBackend'):
        draw_curves(tmp_path, tmp_path / 'x.png', ['a'], 'm')


@pytest.mark.parametrize('unit, more', [('epoch', dict(epoch=1)), ('iteration', {})])
def test_validations_are_counted_as_the_training_counts(tmp_path, figures, unit, more):
    """Iteration-based logs have no epochs. Legends stand below the axes, not over curves."""
    write(tmp_path, 'run', trained(10, 3.0, **more), {'a/m': 0.1, 'step': 7})
    draw_curves(tmp_path, tmp_path / 'x.png', ['a', 'ensemble'], 'm')
    (figure,) = figures
    assert [axes.get_xlabel() for axes in figure.axes] == ['iteration', 'iteration', unit]
    figure.canvas.draw()
    for axes in figure.axes:
        assert axes.get_legend().get_window_extent().y1 <= axes.get_window_extent().y0
    assert (tmp_path / 'x.png').stat().st_size > 1000


def test_shares_and_cosines_are_no_terms_of_links(tmp_path, figures):
    """They are of another scale: the page has plots of their own for them."""
    measured = {'a/share_kd[b:feature]': 0.1, 'a/cosine_kd[b:feature]': -0.2}
    write(tmp_path, 'run', trained(10, 3.0, **measured))
    draw_curves(tmp_path, tmp_path / 'x.png', ['a', 'ensemble'], 'm')
    losses, terms, metric = figures[0].axes
    assert [line.get_label() for line in terms.lines] == ['a/loss_kd[b:prediction]']
    assert metric.get_title() == 'm: none in the log' and losses.lines


def test_a_line_that_a_kill_has_cut_is_left_out(tmp_path):
    write(tmp_path, 'run', trained(10, 3.0), {'a/m': 0.1, 'step': 1})
    with open(tmp_path / 'run/vis_data/scalars.json', 'a') as file:
        file.write('\n{"loss": 1.0, "a/lo')
    with pytest.warns(UserWarning, match='scalars.json, line 3: damaged'):
        train, val = read_scalars(tmp_path)
    assert train['a/loss'] == {10: 3.0} and val == {'a/m': {1: 0.1}}
