import os

import pytest

from mmkd.datasets.converters.output import tracked, whole_folder


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_is_shown_on_a_terminal_alone(monkeypatch, capsys, terminal):
    import sys

    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
    monkeypatch.setenv('FORCE_COLOR', '1')  # rich takes what it writes to for a terminal
    assert list(tracked(range(7))) == list(range(7))
    out, err = capsys.readouterr()
    assert not out and ('100%' in err) is terminal


@pytest.mark.parametrize('made', [1, 2])
def test_a_stop_while_folders_are_made_leaves_nothing(tmp_path, monkeypatch, made):
    make, count = os.mkdir, 0

    def stopped(place, *args, **kwargs):
        nonlocal count
        make(place, *args, **kwargs)
        count += 1
        if count == made:
            raise KeyboardInterrupt

    monkeypatch.setattr(os, 'mkdir', stopped)
    with pytest.raises(KeyboardInterrupt), whole_folder(tmp_path / 'out'):
        pass
    assert not list(tmp_path.iterdir())
