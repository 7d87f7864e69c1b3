import pytest
import torch
from torch import nn

from mmkd.models.distillers.tap import tensors_of
from mmkd.models.distillers.watch import Watch, all_finite


class Levels(nn.Module):
    """A head with an output a level."""

    def forward(self, x):
        return [x, [x * 2, x * 3]], x.new_zeros(2, dtype=torch.long)


@pytest.fixture
def watched():
    network = nn.Sequential(Levels()).train()
    return network, Watch(network)


def test_one_question_for_all_outputs(watched, monkeypatch):
    network, watch = watched
    kept = network(torch.ones(3))
    asked, plain = [], torch.Tensor.__bool__
    monkeypatch.setattr(torch.Tensor, '__bool__', lambda t: asked.append(1) or plain(t))
    assert watch.finite() and len(asked) == 1
    del kept


@pytest.mark.parametrize('value', [float('nan'), float('inf')])
def test_a_value_that_is_no_number_is_seen_until_the_next_step(watched, value):
    network, watch = watched
    kept = network(torch.tensor([1.0, value]))
    assert not watch.finite()
    watch.clear()
    assert watch.finite()
    del kept


def test_outputs_no_longer_in_use_and_of_eval_mode_are_not_kept(watched):
    network, watch = watched
    network(torch.tensor([float('nan')]))
    assert watch.finite()
    kept = network.eval()(torch.tensor([float('nan')]))
    assert watch.finite()
    del kept


def test_nothing_is_finite():
    assert all_finite([])


def test_a_tap_records_before_a_watch_ends_the_pass(toolkit, monkeypatch):
    """As a watch does at once on a GPU: the member skips its step, with links as without."""
    original = Watch.__call__

    def at_once(self, module, args, output):
        original(self, module, args, output)
        if module.training and not all_finite(list(tensors_of(output))):
            raise FloatingPointError('outputs that are not finite cannot be assigned')

    monkeypatch.setattr(Watch, '__call__', at_once)
    model = toolkit.make_distiller(sharing='ml_p')
    wrapper = toolkit.optim_wrapper(model)
    with torch.no_grad():
        next(model.network('student1').bbox_head.parameters()).fill_(float('nan'))
    model.train_step(toolkit.make_batch(), wrapper)
    assert wrapper.skipped == ['student1']


def test_in_several_processes_outputs_go_on_and_terms_are_nan(watched, monkeypatch):
    monkeypatch.setattr('mmkd.models.distillers.watch.get_world_size', lambda: 2)
    network, watch = watched
    losses = dict(loss=torch.ones(()), each=[torch.ones(()), torch.ones(())])
    (first, nested), counts = network(torch.tensor([1.0, 2.0]))
    assert first.tolist() == [1, 2] and nested[1].tolist() == [3, 6] and counts.tolist() == [0, 0]
    whole = watch.marked(losses)
    assert whole['loss'] == 1 and whole['each'] == [1, 1]
    (first, nested), _ = network(torch.tensor([float('nan'), float('inf')]))
    assert first.tolist() == nested[0].tolist() == [0, 0]
    broken = watch.marked(losses)
    assert broken['loss'].isnan() and all(term.isnan() for term in broken['each'])
    watch.clear()
    assert watch.marked(losses) is losses
