"""Locked files."""

import fcntl
import threading

import pytest

from mmkd.utils.locks import is_locked, try_lock, wait_for_lock


def test_one_holds_a_file_at_a_time(tmp_path):
    path = tmp_path / 'lock'
    held = try_lock(path)
    assert held is not None and is_locked(path)
    assert try_lock(path) is None
    held.close()
    assert not is_locked(path)
    again = try_lock(path)
    assert again is not None
    again.close()


def test_who_waits_gets_it_next(tmp_path):
    path = tmp_path / 'lock'
    held = try_lock(path)
    got = []
    waiting = threading.Thread(target=lambda: got.append(wait_for_lock(path)), daemon=True)
    waiting.start()
    assert not got
    held.close()
    waiting.join(60)
    assert is_locked(path)
    got[0].close()


def test_a_folder_that_is_missing_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no_folder'):
        try_lock(tmp_path / 'no_folder/lock')


def test_a_lock_is_of_the_file_that_is_there(tmp_path, monkeypatch):
    """A folder that is moved aside between opening and locking takes the opened file with it."""
    folder = tmp_path / 'run'
    folder.mkdir()
    flock = fcntl.flock

    def moved_before(file, how):
        monkeypatch.setattr(fcntl, 'flock', flock)
        folder.rename(tmp_path / 'aside')
        folder.mkdir()
        flock(file, how)

    monkeypatch.setattr(fcntl, 'flock', moved_before)
    held = try_lock(folder / 'lock')
    assert is_locked(folder / 'lock') and not is_locked(tmp_path / 'aside/lock')
    held.close()
