"""What the metrics that hooks and schedules wait for are called where members are left out.

Those of a training of several members begin with a member's name or with `ensemble`. One that the
exported training does not give would end it at its first validation.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from mmengine.config import Config

# What compares an ensemble's members with each other: no network alone has it.
AGREEMENT = 'ensemble/agreement'
# New names, None for a metric that is dropped.
Rename = Callable[[Sequence[str]], list[str | None]]


def renamed(metrics: Sequence[str], gone: Collection[str], to: str) -> list[str | None]:
    """Return the names of metrics that are waited for together, None for those that are dropped.

    Those of `gone` are dropped. Where there are no others, one's stay, under the name `to`: the
    ensemble's if it is among them, else the first's.

    Args:
        metrics: `<owner>/<metric>`, or `auto`.
        gone: Owners whose metrics there are not.
        to: The owner in place of one of them.
    """
    owners = [metric.partition('/')[0] for metric in metrics]
    waiting = [owner for owner, metric in zip(owners, metrics) if metric != AGREEMENT]
    stays: str | None = None
    if all(owner in gone for owner in owners):
        stays = 'ensemble' if 'ensemble' in waiting else next(iter(waiting), None)
    found: list[str | None] = []
    for owner, metric in zip(owners, metrics):
        if owner not in gone:
            found.append(metric)
        elif owner == stays and metric != AGREEMENT:
            found.append(f'{to}/{metric.partition("/")[2]}')
        else:
            found.append(None)
    return found


def rename_for_member(cfg: Config, name: str, owners: Collection[str]) -> None:
    """Let a config wait for the metrics of the member `name` alone, without its name, in place.

    Args:
        cfg: The config of its training alone.
        name: The member.
        owners: All that the training of several members measures.
    """
    gone = [owner for owner in owners if owner != name]

    def rename(metrics: Sequence[str]) -> list[str | None]:
        found = renamed(metrics, gone, name)
        return [metric and metric.removeprefix(f'{name}/') for metric in found]

    _rename_all(cfg, rename)


def rename_for_ensemble(cfg: Config, gone: Collection[str], to: str) -> None:
    """Let an exported ensemble's config wait for no metrics of members that it lacks, in place.

    Args:
        cfg: The ensemble's config.
        gone: Those members.
        to: Whose metrics stand in their place.
    """
    _rename_all(cfg, lambda metrics: renamed(metrics, gone, to))


def _rename_all(cfg: Config, rename: Rename) -> None:
    """Rename what hooks and schedules wait for; drop those that have nothing left to wait for."""
    default: Any = cfg.get('default_hooks') or {}
    custom = list(cfg.get('custom_hooks') or [])
    hooks = [*dict.values(default), *custom]
    for hook in hooks:
        if isinstance(hook, dict) and hook.get('save_best') is not None:
            _rename_best(hook, rename)
    left = _renamed_monitors(hooks, rename)
    for key in [key for key, hook in dict.items(default) if not _is_among(hook, left)]:
        default.pop(key)
    if 'custom_hooks' in cfg:
        cfg.custom_hooks = [hook for hook in custom if _is_among(hook, left)]
    if cfg.get('param_scheduler') is not None:
        cfg.param_scheduler = _renamed_schedules(cfg.param_scheduler, rename)


def _is_among(node: Any, nodes: Sequence[Any]) -> bool:
    return any(node is one for one in nodes)


def _rename_best(hook: dict[str, Any], rename: Rename) -> None:
    best, rule = hook['save_best'], hook.get('rule')
    if isinstance(best, str):
        (hook['save_best'],) = rename([best])
        return
    names = rename(best)
    hook['save_best'] = [name for name in names if name is not None] or None
    if isinstance(rule, list) and len(rule) == len(names):
        hook['rule'] = [each for each, name in zip(rule, names) if name is not None]
    if isinstance(rule, list) and hook['save_best'] is None:
        hook.pop('rule')  # mmengine compares the two lists' lengths


def _renamed_monitors(nodes: Sequence[Any], rename: Rename) -> list[Any]:
    """Return the hooks or schedules that are left, with new names of what they monitor."""
    waiting = [n for n in nodes if isinstance(n, dict) and isinstance(n.get('monitor'), str)]
    names = rename([node['monitor'] for node in waiting])
    dropped = [node for node, name in zip(waiting, names) if name is None]
    for node, name in zip(waiting, names):
        node['monitor'] = name
    return [node for node in nodes if not _is_among(node, dropped)]


def _renamed_schedules(given: Any, rename: Rename) -> Any:
    if isinstance(given, dict) and 'type' not in given:  # each member's own
        return {name: _renamed_schedules(own, rename) for name, own in dict.items(given)}
    if isinstance(given, list | tuple):
        return _renamed_monitors(given, rename)
    return next(iter(_renamed_monitors([given], rename)), [])
