import collections
import os
import pickle

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from torch import nn

from mmkd.utils import checkpoint
from mmkd.utils.checkpoint import load_file, load_member, member_state

KEY = 'model.members.a.checkpoint'


def network(classes=2, norm=False):
    layers = collections.OrderedDict(body=nn.Linear(3, 4))
    if norm:
        layers['norm'] = nn.BatchNorm1d(4)
    layers['head'] = nn.Linear(4, classes)
    return nn.Sequential(layers)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def save(content, path, **kwargs):
    torch.save(content, path, **kwargs)
    return str(path)


@pytest.fixture
def log(monkeypatch):
    """The lines that the module logs."""
    lines = []
    monkeypatch.setattr(checkpoint, 'print_log', lambda text, **kwargs: lines.append(text))
    return lines


# load_file


@pytest.mark.parametrize('new_format', [True, False])
def test_tensors_and_plain_values_come_back(tmp_path, new_format):
    content = dict(
        state_dict=dict(
            a=torch.arange(6.0).view(2, 3), b=torch.tensor(3), c=torch.ones(2, dtype=torch.bfloat16)
        ),
        meta=dict(
            epoch=3,
            classes=('polyp',),
            seed=None,
            time='x',
            palette=[[1, 2, 3]],
            share=0.5,
            flags={True},
        ),
    )
    loaded = load_file(
        save(content, tmp_path / 'x.pth', _use_new_zipfile_serialization=new_format), KEY
    )
    assert loaded['meta'] == content['meta'] and list(loaded['state_dict']) == ['a', 'b', 'c']
    for name, value in content['state_dict'].items():
        assert (
            torch.equal(loaded['state_dict'][name], value)
            and loaded['state_dict'][name].dtype == value.dtype
        )


def test_what_mmengine_saves_beside_weights_comes_back(tmp_path):
    history = HistoryBuffer([0.5, 0.25], [1, 3])
    content = dict(
        message_hub=dict(
            log_scalars=collections.OrderedDict(loss=history), runtime_info=dict(iter=7)
        ),
        milestones=collections.Counter([3, 5]),
        rate=np.float64(0.1),
        count=np.int64(4),
        values=np.arange(3, dtype='f4'),
    )
    loaded = load_file(save(content, tmp_path / 'x.pth'), KEY)
    buffer = loaded['message_hub']['log_scalars']['loss']
    assert isinstance(buffer, HistoryBuffer) and [list(part) for part in buffer.data] == [
        [0.5, 0.25],
        [1, 3],
    ]
    assert buffer.mean() == history.mean() and buffer.current() == 0.25
    assert loaded['milestones'] == {3: 1, 5: 1} and loaded['rate'] == 0.1 and loaded['count'] == 4
    assert loaded['values'].tolist() == [0, 1, 2]


@pytest.mark.parametrize('name', ['none.pth', 'folder/none.pth', '.'])
def test_a_missing_file_is_named_with_where_it_was_looked_for(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=f"^{KEY}: no file '{name}'") as error:
        load_file(name, KEY)
    assert str(tmp_path) in str(error.value)


def test_home_is_expanded(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    save(dict(a=1), tmp_path / 'x.pth')
    assert load_file('~/x.pth', KEY) == dict(a=1)


@pytest.mark.parametrize('share', [0.01, 0.1, 0.5, 0.9, 0.99])
def test_a_truncated_file_is_named(tmp_path, share):
    path = tmp_path / 'x.pth'
    save(network().state_dict(), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    with pytest.raises(
        ValueError, match=f'^{KEY}: .*x.pth. is (damaged or )?no (plain )?checkpoint'
    ):
        load_file(str(path), KEY)


@pytest.mark.parametrize(
    'text',
    [
        '<!DOCTYPE html><html><body>404 Not Found</body></html>',
        '{"message": "Not Found"}',
        '# A read-me\n',
        '404: Not Found',
        'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n',
        'PK\x03\x04 but no archive',
    ],
)
def test_a_text_file_is_named(tmp_path, text):
    path = tmp_path / 'x.pth'
    path.write_text(text)
    with pytest.raises(
        ValueError, match=f'^{KEY}: .*x.pth. is (damaged or )?no (plain )?checkpoint'
    ):
        load_file(str(path), KEY)


class Calls:
    """Pickles as a call of a function, which loading the pickle makes."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call

    def __call__(self):
        """For pickle, which checks that a function found by a call can be called."""


WAYS = {
    'mkdir': lambda marker: Calls(os.mkdir, marker),
    'exec': lambda marker: Calls(exec, f'import os; os.mkdir({marker!r})'),
    'eval': lambda marker: Calls(eval, f'__import__("os").mkdir({marker!r})'),
    'system': lambda marker: Calls(os.system, f'mkdir {marker}'),
    'getattr': lambda marker: Calls(Calls(getattr, Calls(__import__, 'os'), 'mkdir'), marker),
    'method': lambda marker: dict(state_dict={}, meta=dict(history=[Calls(os.mkdir, marker)])),
}


@pytest.mark.parametrize('writer', ['torch', 'legacy', 'pickle'])
@pytest.mark.parametrize('way', WAYS)
def test_a_file_that_would_run_code_is_refused_and_the_code_does_not_run(tmp_path, way, writer):
    marker, path = tmp_path / 'marker', tmp_path / 'evil.pth'
    evil = WAYS[way](str(marker))
    if writer == 'pickle':
        path.write_bytes(pickle.dumps(evil, protocol=2))
        pickle.loads(path.read_bytes())
    else:
        save(evil, path, _use_new_zipfile_serialization=writer == 'torch')
        torch.load(path, weights_only=False)
    assert marker.is_dir()  # the code is live: a careless loader runs it
    marker.rmdir()
    with pytest.raises(
        ValueError, match=f'^{KEY}: .*evil.pth. is no plain checkpoint, it is not loaded: '
    ):
        load_file(str(path), KEY)
    assert not marker.exists()


@pytest.mark.parametrize(
    'owner, name',
    [
        (HistoryBuffer, '__init__'),
        (HistoryBuffer, '__subclasses__'),
        (dict, 'fromkeys'),
        (collections.OrderedDict, 'fromkeys'),
        (np.ndarray, 'tofile'),
    ],
)
def test_getattr_gives_no_more_than_methods_of_a_history(tmp_path, owner, name):
    path = save(Calls(getattr, owner, name), tmp_path / 'x.pth')
    assert torch.load(path, weights_only=False) == getattr(owner, name)
    with pytest.raises(ValueError, match=f'^{KEY}: .* is no plain checkpoint'):
        load_file(path, KEY)


def test_a_pickled_object_is_refused(tmp_path):
    path = save(network(), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match='is no plain checkpoint, it is not loaded: .*Sequential'):
        load_file(path, KEY)


def test_loading_leaves_what_torch_takes_for_safe(tmp_path):
    path = save(dict(a=HistoryBuffer([1.0], [1])), tmp_path / 'x.pth')
    load_file(path, KEY)
    with pytest.raises(pickle.UnpicklingError, match='HistoryBuffer'):
        torch.load(path, weights_only=True)


def test_a_url_is_downloaded_and_loaded(tmp_path, monkeypatch):
    path = save(dict(a=1), tmp_path / 'x.pth')
    asked = []
    monkeypatch.setattr(
        checkpoint, 'download', lambda url, key: asked.append((url, key)) or tmp_path / 'x.pth'
    )
    assert load_file('https://example.invalid/x.pth', KEY) == load_file(path, KEY) == dict(a=1)
    assert asked == [('https://example.invalid/x.pth', KEY)]


def test_mmengines_own_containers_come_back(tmp_path):
    from pathlib import Path

    from mmengine.config import ConfigDict

    content = dict(meta=ConfigDict(dataset_meta=dict(classes=('polyp',))), hub=dict(at=Path('a/b')))
    loaded = load_file(save(content, tmp_path / 'x.pth'), KEY)
    assert loaded == content and loaded['hub']['at'] == Path('a/b')


def test_a_flipped_bit_is_noticed_or_changes_nothing(tmp_path):
    """It may hit the empty bytes between two records."""
    path, draw = tmp_path / 'x.pth', np.random.default_rng(0)
    whole = torch.arange(400.0)
    save(dict(state_dict=dict(w=whole)), path)
    content, noticed = path.read_bytes(), 0
    for place in draw.choice(8 * len(content), 60, replace=False):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        try:
            loaded = load_file(str(path), KEY)
        except ValueError as error:
            assert str(error).startswith(f'{KEY}: ')
            noticed += 1
        else:
            assert torch.equal(loaded['state_dict']['w'], whole), int(place)
    assert noticed >= 40


@pytest.mark.parametrize('value', [float('nan'), float('inf'), -7e37])
def test_weights_that_cannot_be_are_named(tmp_path, value):
    state = dict(body=torch.ones(3), head=torch.tensor([1.0, value]), count=torch.tensor(5))
    for content in (state, dict(state_dict=state)):
        path = save(content, tmp_path / 'x.pth')
        with pytest.warns(UserWarning, match=f'{KEY}: .*1 of 3 weights are not finite.*: head$'):
            load_file(path, KEY)


# mmengine's own loading


def live_string(marker):
    return f'import os\nos.mkdir({str(marker)!r})\n'


def load_from(path, cfg):
    from mmengine.runner import load_checkpoint

    load_checkpoint(network(), path)


def load_with_prefix(path, cfg):
    from mmengine.runner.checkpoint import _load_checkpoint_with_prefix

    _load_checkpoint_with_prefix('a', path)


def start_a_backbone(path, cfg):
    from mmengine.model import BaseModule

    BaseModule(init_cfg=dict(type='Pretrained', checkpoint=path)).init_weights()


def load_a_url(path, cfg):
    from mmengine.runner import CheckpointLoader

    CheckpointLoader.load_checkpoint(f'https://example.invalid/{path}')


def load_from_a_model_zoo(path, cfg):
    from mmengine.runner import CheckpointLoader

    CheckpointLoader.load_checkpoint('torchvision://some_net')


def build_a_network_that_loads_by_itself(path, cfg):
    """As older releases of timm do."""
    from mmkd.models.distillers.member_spec import MemberSpec

    class Own(nn.Module):
        def __init__(self, path):
            super().__init__()
            torch.load(path, weights_only=False)

    MemberSpec('a', dict(type=Own, path=path)).build(0)


@pytest.mark.parametrize(
    'load',
    [
        load_from,
        load_with_prefix,
        start_a_backbone,
        load_a_url,
        load_from_a_model_zoo,
        build_a_network_that_loads_by_itself,
    ],
)
def test_no_way_that_mmengine_loads_by_runs_a_pickle(tmp_path, monkeypatch, load):
    marker, path = tmp_path / 'marker', tmp_path / 'evil.pth'
    save(dict(state_dict=dict(evil=Calls(os.mkdir, str(marker)))), path)
    monkeypatch.setattr(checkpoint, 'download', lambda url, key: path)
    monkeypatch.setattr(
        'mmengine.runner.checkpoint.get_torchvision_models',
        lambda: dict(some_net='https://example.invalid/some_net.pth'),
    )
    with pytest.raises(ValueError, match='is no plain checkpoint, it is not loaded|Weights only'):
        load(str(path), None)
    assert not marker.exists()


def test_resuming_does_not_execute_the_text_of_a_config_in_the_checkpoint(tmp_path):
    from mmengine.runner import CheckpointLoader

    text = live_string(tmp_path / 'marker')
    path = save(
        dict(state_dict=dict(w=torch.zeros(1)), meta=dict(config=text, cfg=text, epoch=1)),
        tmp_path / 'x.pth',
    )
    meta = CheckpointLoader.load_checkpoint(path)['meta']
    assert 'config' not in meta and meta['epoch'] == 1  # `Runner.resume` executes meta['config']


def test_what_was_loaded_is_not_read_again(tmp_path):
    from mmengine.runner import CheckpointLoader

    path = save(dict(state_dict=dict(w=torch.zeros(1))), tmp_path / 'x.pth')
    content = load_file(path, KEY)
    os.remove(path)
    checkpoint.hand_over(path, content)
    assert CheckpointLoader.load_checkpoint(path) is content
    with pytest.raises(ValueError, match='no file'):
        CheckpointLoader.load_checkpoint(path)


# member_state


def test_the_state_of_each_kind_of_checkpoint():
    a, b = dict(w=torch.zeros(1)), dict(w=torch.ones(1))
    assert member_state(a, 'x', KEY) == a
    assert member_state(dict(state_dict=a, meta=dict()), 'x', KEY) == a
    assert member_state(dict(state_dict={f'module.{k}': v for k, v in a.items()}), 'x', KEY) == a
    joined = dict(
        state_dict={
            'members.a.w': a['w'],
            'members.ab.w': b['w'],
            'link_modules.0.w': torch.zeros(2),
        }
    )
    assert member_state(joined, 'a', KEY) == a and member_state(joined, 'ab', KEY) == b
    with pytest.raises(
        ValueError, match=rf"^{KEY}: the checkpoint holds members \['a', 'ab'\], none named 'b'"
    ):
        member_state(joined, 'b', KEY)


@pytest.mark.parametrize(
    'content',
    [
        {},
        [],
        None,
        3,
        torch.zeros(2),
        dict(state_dict={}),
        dict(state_dict=None),
        dict(state_dict=[1]),
    ],
)
def test_a_checkpoint_without_weights(content):
    with pytest.raises(ValueError, match=f"^{KEY}: the checkpoint has no 'state_dict'"):
        member_state(content, 'a', KEY)


# load_member


def test_another_class_count_keeps_the_last_layer_and_one_line_names_it(tmp_path, log):
    start, own = network(classes=1), network(classes=5)
    before = weights(own)
    path = save(dict(state_dict=start.state_dict()), tmp_path / 'x.pth')
    load_member(own, path, 'student1', KEY, strict=False)
    after = own.state_dict()
    for name in before:
        assert torch.equal(
            after[name], (before if name.startswith('head') else start.state_dict())[name]
        ), name
    assert log == [
        f'student1: started from {path}: 2 of 4 weights loaded; left at their initial values: '
        'head.weight, head.bias'
    ]


def test_another_class_count_of_a_detector(toolkit, tmp_path, log):
    one = toolkit.make_distiller(members=dict(a=toolkit.yolox(seed=3)))
    options = dict(toolkit.NARROW, **{'bbox_head.num_classes': 3})
    three = toolkit.make_distiller(members=dict(a=toolkit.yolox(options=options, seed=4)))
    start, before = weights(one.network('a')), weights(three.network('a'))
    load_member(
        three.network('a'), save(dict(state_dict=start), tmp_path / 'x.pth'), 'a', KEY, strict=False
    )
    last = [name for name in start if 'multi_level_conv_cls' in name]
    assert len(last) == 6 and len(log) == 1 and all(name in log[0] for name in last)
    assert f'{len(start) - 6} of {len(start)} weights loaded' in log[0]
    for name, value in three.network('a').state_dict().items():
        assert torch.equal(value, (before if name in last else start)[name]), name


def test_a_checkpoint_that_fits_is_loaded_whole(tmp_path, log):
    start, own = network(norm=True), network(norm=True)
    start.norm.running_mean.fill_(3)
    path = save(start.state_dict(), tmp_path / 'x.pth')
    for strict in (False, True):
        load_member(own, path, 'a', KEY, strict=strict)
        assert all(torch.equal(v, start.state_dict()[k]) for k, v in own.state_dict().items())
    assert log == [f'a: started from {path}: 9 of 9 weights loaded'] * 2


def test_missing_and_unknown_weights_without_strict(tmp_path, log):
    own = network(norm=True)
    before = weights(own)
    state = dict(network().state_dict(), other=torch.zeros(2))
    load_member(own, save(state, tmp_path / 'x.pth'), 'a', KEY, strict=False)
    for name, value in own.state_dict().items():
        assert torch.equal(value, state[name] if name in state else before[name]), name
    assert len(log) == 1 and 'norm.weight, norm.bias, norm.running_mean, norm.running_var' in log[0]


def test_a_long_list_of_names_is_cut(tmp_path, log):
    own = nn.Sequential(*[nn.Linear(1, 1) for _ in range(20)])
    load_member(own, save({'0.bias': torch.ones(1)}, tmp_path / 'x.pth'), 'a', KEY, strict=False)
    assert len(log) == 1 and log[0].endswith(', ...') and log[0].count(',') == 12


@pytest.mark.parametrize(
    'change, message',
    [
        (
            lambda state: dict(state, extra=torch.zeros(1)),
            r"0 weights missing \[\], 1 unknown \['extra'\], 0 of another shape",
        ),
        (
            lambda state: {k: v for k, v in state.items() if k != 'body.bias'},
            r"1 weights missing \['body.bias'\], 0 unknown",
        ),
        (
            lambda state: dict(state, **{'head.bias': torch.zeros(7)}),
            r"1 of another shape \[\('head.bias', \(7,\), \(2,\)\)\]",
        ),
        (
            lambda state: {f'backbone.{k}': v for k, v in state.items()},
            r"8 weights missing \['body.weight', 'body.bias', 'norm.weight'\], 9 unknown",
        ),
    ],
)
def test_strict_loading_refuses_any_difference_and_changes_nothing(tmp_path, log, change, message):
    own = network(norm=True)
    before = weights(own)
    path = save(dict(state_dict=change(network(norm=True).state_dict())), tmp_path / 'x.pth')
    with pytest.raises(ValueError, match=f'^{KEY}: .*x.pth. does not fit the network: .*{message}'):
        load_member(own, path, 'a', KEY, strict=True)
    assert not log and all(torch.equal(v, before[k]) for k, v in own.state_dict().items())


def test_strict_loading_does_without_counts_of_batches(tmp_path, log):
    """Old checkpoints have none."""
    start, own = network(norm=True), network(norm=True)
    state = {k: v for k, v in start.state_dict().items() if not k.endswith('num_batches_tracked')}
    load_member(own, save(state, tmp_path / 'x.pth'), 'a', KEY, strict=True)
    assert torch.equal(own.head.weight, start.head.weight) and len(log) == 1


def test_strict_loading_of_a_member_of_a_distiller(tmp_path, log):
    a, b, own = network(), network(), network()
    state = {
        f'members.{name}.{k}': v
        for name, module in (('a', a), ('b', b))
        for k, v in module.state_dict().items()
    }
    load_member(own, save(dict(state_dict=state), tmp_path / 'x.pth'), 'b', KEY, strict=True)
    assert torch.equal(own.body.weight, b.body.weight) and len(log) == 1


@pytest.mark.parametrize('strict', [True, False])
def test_nothing_that_fits_is_an_error(tmp_path, log, strict):
    own = network()
    path = save(dict(epoch=3, optimizer=dict()), tmp_path / 'x.pth')
    with pytest.raises(
        ValueError, match=f"^{KEY}: the checkpoint has no 'state_dict' of named tensors"
    ):
        load_member(own, path, 'a', KEY, strict=strict)
    assert not log


@pytest.mark.parametrize('content', [b'', b'this is no checkpoint', b'hello', b'jump', b'\x80\x02'])
def test_any_damaged_file_gives_one_error(tmp_path, content):
    path = tmp_path / 'damaged.pth'
    path.write_bytes(content)
    with pytest.raises(ValueError, match='member.checkpoint: .*damaged.pth'):
        load_file(str(path), 'member.checkpoint')


def test_a_legacy_file_cut_anywhere_gives_one_error(tmp_path):
    whole, path = tmp_path / 'whole.pth', tmp_path / 'cut.pth'
    torch.save(
        dict(state_dict=dict(weight=torch.ones(3))), whole, _use_new_zipfile_serialization=False
    )
    content = whole.read_bytes()
    for end in range(0, len(content) - 1, 7):
        path.write_bytes(content[:end])
        with pytest.raises(ValueError, match='member.checkpoint'):
            load_file(str(path), 'member.checkpoint')


@pytest.mark.parametrize('name', ['numpy.core.multiarray', 'numpy._core.multiarray'])
def test_numpy_arrays_of_either_major_version_load(tmp_path, name):
    import zipfile

    import numpy as np

    whole, path = tmp_path / 'whole.pth', tmp_path / 'other.pth'
    torch.save(dict(state_dict=dict(weight=torch.ones(3)), history=np.arange(3.0)), whole)
    with zipfile.ZipFile(whole) as old, zipfile.ZipFile(path, 'w') as new:
        for entry in old.namelist():
            data = old.read(entry)
            for other in (b'numpy._core.multiarray', b'numpy.core.multiarray'):
                data = data.replace(other, name.encode())
            new.writestr(entry, data)
    assert load_file(str(path), 'checkpoint')['history'].tolist() == [0.0, 1.0, 2.0]


@pytest.mark.parametrize('state', [{0: torch.ones(2)}, {'weight': 3}])
def test_a_state_dict_of_other_things_than_named_tensors(state):
    from mmkd.utils.checkpoint import member_state

    with pytest.raises(ValueError, match='named tensors'):
        member_state(dict(state_dict=state), 'student1', 'checkpoint')
