"""Files that are whole or not there."""

import os
from errno import EISDIR, ENOSPC
from pathlib import Path

import pytest

from mmkd.utils.errors import ConfigError
from mmkd.utils.files import check_file_path, write_atomically


def test_an_error_names_the_file_that_was_to_be_written(tmp_path, monkeypatch):
    (tmp_path / 'few').mkdir()
    with pytest.raises(IsADirectoryError) as caught:
        write_atomically(tmp_path / 'few', lambda path: Path(path).write_text('new'))
    assert caught.value.filename == str(tmp_path / 'few') and caught.value.errno == EISDIR

    def refuse(source, target):
        raise PermissionError(13, 'Permission denied', source, target)

    monkeypatch.setattr(os, 'replace', refuse)
    with pytest.raises(PermissionError) as caught:
        write_atomically(tmp_path / 'a.json', lambda path: Path(path).write_text('new'))
    assert str(caught.value) == f"[Errno 13] Permission denied: '{tmp_path / 'a.json'}'"

    def fill(path):
        raise OSError(ENOSPC, 'No space left on device')

    with pytest.raises(OSError, match='No space left') as caught:
        write_atomically(tmp_path / 'a.json', fill)
    assert caught.value.errno == ENOSPC and caught.value.filename is None
    assert [path.name for path in tmp_path.iterdir()] == ['few']


def test_a_path_is_checked_before_the_work(tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    check_file_path(tmp_path / 'file', '--out')
    check_file_path(tmp_path / 'a/b/c.json', '--out')
    monkeypatch.chdir(tmp_path)
    check_file_path('new.json', '--out')
    with pytest.raises(ConfigError, match='--out: expected a file, got the folder'):
        check_file_path(tmp_path, '--out')
    with pytest.raises(ConfigError, match=r"--out: 'file/a/b.json': .*file' is no folder"):
        check_file_path('file/a/b.json', '--out')
    monkeypatch.setattr(os, 'access', lambda path, mode: False)
    with pytest.raises(ConfigError, match=r'--out: .* no permission to write in'):
        check_file_path(tmp_path / 'new.json', '--out')
    assert [path.name for path in tmp_path.iterdir()] == ['file']
