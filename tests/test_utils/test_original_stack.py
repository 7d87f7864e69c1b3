import collections
import io
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer

from mmkd.utils.checkpoint import SAFE_GLOBALS
from mmkd.utils.original_stack import autocast_enabled, safe_globals


class Reduces:
    """An object that a file describes by a call, and by a state that is set on the result."""

    def __init__(self, *described):
        self.described = described

    def __reduce__(self):
        return self.described


def load(content):
    """What the loader of an old torch gives for `content`; torch.save writes protocol 2."""
    file = io.BytesIO(pickle.dumps(content, protocol=2))
    with safe_globals(SAFE_GLOBALS):
        return torch.serialization._weights_only_unpickler.Unpickler(file, encoding='utf-8').load()


def test_plain_values_and_what_mmengine_saves_come_back():
    history = HistoryBuffer([1.0, 3.0], [1, 1])
    found = load(
        dict(
            history=history,
            array=np.arange(3),
            number=np.float64(2.5),
            more=[{1}, b'bytes', 1j, collections.OrderedDict(a=1), slice(1, 2)],
        )
    )
    assert found['history'].mean() == 2.0 and found['array'].tolist() == [0, 1, 2]
    assert found['number'] == 2.5
    assert found['more'] == [{1}, b'bytes', 1j, collections.OrderedDict(a=1), slice(1, 2)]


@pytest.mark.parametrize(
    ('described', 'message'),
    [
        ((os.mkdir, ('made',)), 'mkdir'),
        ((getattr, (HistoryBuffer, '__init__')), 'getattr'),
        ((pickle.loads, (b'',)), 'loads'),
    ],
)
def test_nothing_else_is_called(tmp_path, monkeypatch, described, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match=f'{message}.* is not for a checkpoint'):
        load(Reduces(*described))
    assert not list(tmp_path.iterdir())


def test_a_class_keeps_its_attributes():
    content = b'\x80\x02ctorch\nSize\nN}X\x05\x00\x00\x00numelK\x01s\x86b.'
    with safe_globals(SAFE_GLOBALS):
        unpickler = torch.serialization._weights_only_unpickler.Unpickler(io.BytesIO(content))
        with pytest.raises(pickle.UnpicklingError, match='the state of a type'):
            unpickler.load()


def test_torchs_own_loader_is_back_afterwards():
    own = torch.serialization._weights_only_unpickler
    with pytest.raises(pickle.UnpicklingError):
        load(Reduces(os.mkdir, ('made',)))
    assert torch.serialization._weights_only_unpickler is own


def test_autocast_is_asked_for_a_device(monkeypatch):
    def both():
        return autocast_enabled('cpu'), autocast_enabled('cuda')

    assert both() == (False, False)
    with torch.autocast('cpu', torch.bfloat16):
        assert both() == (True, False)
    # As before torch 2.4.
    monkeypatch.setattr(torch, 'is_autocast_enabled', lambda: False)
    monkeypatch.setattr(torch, 'is_autocast_cpu_enabled', lambda: True)
    assert both() == (True, False)
