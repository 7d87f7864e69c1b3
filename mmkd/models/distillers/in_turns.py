"""A training step in which members run one after another, so that one graph is alive at a time."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmkd.utils.errors import ConfigError

from .links import Links
from .step import Step, mean_of
from .tap import detach

if TYPE_CHECKING:
    from .online_distiller import OnlineDistiller

# By view (`labeled`, `weak`, `strong`) and tap.
Taps = dict[str, set[str]]


def check_turns(links: Links) -> None:
    """Raise a ConfigError for a link whose gradient flows into its source, through two graphs."""
    for link in links:
        if not link.spec.detach:
            raise ConfigError(
                f'{link.key}.detach: False needs the graphs of both members at once, but '
                'model.in_turns=True frees one before the next; use detach=True or in_turns=False'
            )


def train_in_turns(
    model: OnlineDistiller, data: dict[str, Any], optim_wrapper: Any
) -> dict[str, Tensor]:
    """Take a training step of the same gradients with the activations of one member at a time.

    First each member that others learn from runs without gradient, as far as its taps; then each
    online member runs with its loss and its links, backward, and its graph is freed. The largest
    online member (by parameters; mmkd's choice) begins: it waits for nobody's second run, so it
    needs no first one. What a first run draws and writes (random streams; running statistics and
    other buffers) is taken back, so that the second one is what it would be alone.

    Args:
        model: The distiller.
        data: The loader's batch.
        optim_wrapper: A `MemberOptimWrapper`.

    Returns:
        What is logged.
    """
    members = model.members
    turns = sorted(members.online, key=lambda name: -_size(members[name]))
    with optim_wrapper.optim_context(model):
        data = model.data_preprocessor(data, True)
        step = Step(model, data['inputs'], data.get('data_samples') or [], data.get('unlabeled'))
        read = _read_by_others(step)
        for name in model.specs:
            if name in read and name != turns[0]:
                _read_source(step, name, read[name])
        model.expect_average()
    own: dict[str, dict[str, Any]] = {}
    linked: dict[str, dict[str, Any]] = {}
    for name in turns:
        # A context each: autocast keeps copies of weights, and those of above have no gradient.
        with optim_wrapper.optim_context(model):
            own[name] = _run_with_loss(step, name)
            linked[name] = step.linked(own[name], name)
        losses, _ = model.parse_losses({**own[name], **linked[name]}, [name])
        optim_wrapper.backward(losses, average=True)
        del losses
        for terms in (own, linked):
            terms[name] = {key: mean_of(value).detach() for key, value in terms[name].items()}
        _forget(step, name, read.get(name, {}))
    terms = {
        k: v for part in (own, linked) for name in members.online for k, v in part[name].items()
    }
    losses, log = model.parse_losses(terms)
    optim_wrapper.update_after_backward(losses)
    return log


def _size(network: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _read_by_others(step: Step) -> dict[str, Taps]:
    """Return by member what links into others read of it."""
    read: dict[str, Taps] = {}
    for link in step.active:
        for name in link.source:
            for batch in link.spec.batches if name != link.target else ():
                view = 'labeled' if batch == 'labeled' else link.spec.source_view
                read.setdefault(name, {}).setdefault(view, set()).add(link.source_tap)
    return read


@torch.no_grad()
def _read_source(step: Step, name: str, read: Taps) -> None:
    """Run a member for what others learn from it; keep that alone, without its graph."""
    online = name in step.members.online
    with step.members.without_trace(name) if online else nullcontext():
        # What the labeled images draw and write comes before the views: those need all of it.
        step.labeled(name, read['labeled'] if set(read) == {'labeled'} else None)
        if 'weak' in read:
            step.weak(name)
        if 'strong' in read:
            step.strong(name)
    _forget(step, name, read)


def _run_with_loss(step: Step, name: str) -> dict[str, Any]:
    """Run an online member on all its images; return its own loss terms."""
    terms = step.labeled(name)
    weak = step.needed['weak'].get(name, set())
    if any((name, tap) not in step.batches['weak'].readings for tap in weak):
        step.weak(name)
    if name in step.needed['strong']:
        step.strong(name)
    return terms


def _forget(step: Step, name: str, read: Mapping[str, set[str]]) -> None:
    """Drop what a member's taps have read, but for the values that others learn from."""
    for view, batch in step.batches.items():
        for place in [place for place in batch.readings if place[0] == name]:
            reading = batch.readings.pop(place)
            if place[1] in read.get(view, ()):
                batch.readings[place] = reading._replace(value=detach(reading.value), raw=())
