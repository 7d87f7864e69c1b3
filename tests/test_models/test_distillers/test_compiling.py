"""model.compile: the same step, and a warning where torch.compile does not work."""

import copy

import pytest
import torch
from mmengine.registry import MODELS

LINKS = [
    dict(source='teacher', target='student1', tap='feature', loss='FeatureMSE'),
    dict(source='teacher', target='student1', tap='prediction'),
]


def make(toolkit, **kwargs):
    members = toolkit.members(students=1, average=dict(training='ema', of='student1'))
    return toolkit.make_distiller(members=members, links=copy.deepcopy(LINKS), **kwargs)


def step(toolkit, model):
    model.progress = 1.0
    log = model.train_step(toolkit.make_batch(), toolkit.optim_wrapper(model))
    return log, model.state_dict()


def test_compiled_members_take_the_same_step(toolkit):
    """By the backend that runs dynamo's graphs as they are: no compiler is needed."""
    plain, weights = step(toolkit, make(toolkit))
    model = make(toolkit, compile=dict(backend='eager'))
    torch._dynamo.utils.counters.clear()
    compiled, own = step(toolkit, model)
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] >= 6
    for key, value in plain.items():
        torch.testing.assert_close(compiled[key], value, msg=key)
    for key, value in weights.items():
        torch.testing.assert_close(own[key], value, msg=key)
    twin = copy.deepcopy(model).eval()
    for parameter in twin.network('teacher').backbone.parameters():
        parameter.data.zero_()
    image = torch.ones(1, 3, 64, 64)
    ours, theirs = (m.eval().network('teacher').backbone(image) for m in (model, twin))
    assert not ours[-1].equal(theirs[-1])


def test_links_that_measure_go_through_compiled_members_twice(toolkit, monkeypatch):
    """Newer torch gives a compiled graph's memory away in its first backward pass by default."""
    config = torch._functorch.config
    if hasattr(config, 'donated_buffer'):
        monkeypatch.setattr(config, 'donated_buffer', True)
    members = toolkit.members(students=1)
    weight = dict(type='GradientShare')
    links = [dict(link, weight=weight) for link in LINKS]
    model = toolkit.make_distiller(members=members, links=links, compile=dict(backend='aot_eager'))
    found, _ = step(toolkit, model)
    assert any('/share_' in key for key in found)


def test_where_it_does_not_work_one_warning_says_so(toolkit, monkeypatch):
    told = []
    place = 'mmkd.models.distillers.compiling.print_log'
    monkeypatch.setattr(place, lambda text, *args, **kwargs: told.append(text))

    def broken(graph, inputs):
        raise RuntimeError('no compiler')

    torch._dynamo.reset()  # torch 2.1 gives what another backend has compiled before

    plain, _ = step(toolkit, make(toolkit))
    failed, _ = step(toolkit, make(toolkit, compile=dict(backend=broken)))
    assert len(told) == 1 and 'no compiler' in told[0] and 'uncompiled' in told[0]
    assert all(failed[key].equal(value) for key, value in plain.items())


@pytest.mark.parametrize(
    'options, message',
    [
        (dict(bakend='eager'), r"model.compile.bakend: .*did you mean 'backend'"),
        ('yes', 'model.compile: expected True or a dict'),
    ],
)
def test_wrong_options(toolkit, options, message):
    with pytest.raises(ValueError, match=message):
        make(toolkit, compile=options)


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_compiling'), reason='torch 2.1 does not trace such functions'
)
@pytest.mark.parametrize('loss', ['FeatureMSE', 'PearsonFeature'])
def test_one_more_graph_serves_all_other_sizes(loss):
    """A graph a size would end at dynamo's limit, and with a compiler cost minutes."""
    torch._dynamo.reset()
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    plain = MODELS.build(dict(type=f'mmkd.{loss}'))
    compiled = torch.compile(MODELS.build(dict(type=f'mmkd.{loss}')), backend=backend)
    for side in (32, 48, 64, 80, 96, 128):
        target = torch.randn(4, 96, side, side, requires_grad=True)
        source = torch.randn(4, 96, side, side)
        value = compiled(target, source)
        value.backward()
        torch.testing.assert_close(value, plain(target, source))
    assert len(graphs) == 2
