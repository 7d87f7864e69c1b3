"""Locked files."""

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
