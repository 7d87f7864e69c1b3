"""How far a study is."""

from pathlib import Path

from mmkd.apis.study.plan import Plan
from mmkd.apis.study.results import check_arms, is_stale, read_results, run_folder
from mmkd.utils.locks import is_locked
from mmkd.utils.text import align


def status_table(plan: Plan) -> str:
    """Return a table of arms and seeds: done (minutes), stale, running, stopped or nothing yet."""
    hashes, results = check_arms(plan), read_results(plan)
    rows = [['arm', *(f'seed {seed}' for seed in plan.seeds)]]
    spent = []
    for arm in plan.arms:
        cells = []
        for seed in plan.seeds:
            result = results.get((arm, seed))
            if result is None:
                cells.append(_state(run_folder(plan, arm, seed)))
            elif not plan.trial and (what := is_stale(plan, result, hashes[arm, seed])):
                cells.append(f'other {what}')
            else:
                spent.append(result['minutes'])
                cells.append(f'{result["minutes"]:.1f} min')
        rows.append([arm, *cells])
    total = len(plan.arms) * len(plan.seeds)
    text = f'{align(rows)}\n{len(spent)} of {total} runs done'
    if spent and len(spent) < total:
        rest = (total - len(spent)) * sum(spent) / len(spent)
        text += f'; about {rest:.0f} minutes of training are left'
    return text


def _state(folder: Path) -> str:
    """Return what a run without result is at: its training holds the folder's lock."""
    lock = folder / 'lock'
    if not lock.is_file():
        return '-'
    return 'running' if is_locked(lock) else 'stopped'
