import pytest

from mmkd.datasets.converters.output import tracked


@pytest.mark.parametrize('terminal', [True, False])
def test_progress_is_shown_on_a_terminal_alone(monkeypatch, capsys, terminal):
    import sys

    monkeypatch.setattr(sys.stderr, 'isatty', lambda: terminal)
    monkeypatch.setenv('FORCE_COLOR', '1')  # rich takes what it writes to for a terminal
    assert list(tracked(range(7))) == list(range(7))
    out, err = capsys.readouterr()
    assert not out and ('100%' in err) is terminal
