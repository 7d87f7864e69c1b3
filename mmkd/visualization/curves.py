import json
import warnings
from collections.abc import Sequence
from pathlib import Path

from mmkd.utils.errors import ConfigError

Scalars = dict[str, dict[int, float]]


def scalar_files(work_dir: str | Path) -> list[Path]:
    """Return what mmengine's LocalVisBackend wrote in all runs of a work folder, oldest first."""
    return sorted(Path(work_dir).glob('*/vis_data/scalars.json'))


def read_scalars(work_dir: str | Path) -> tuple[Scalars, Scalars]:
    """Read what mmengine's LocalVisBackend wrote in all runs of a work folder.

    A line that cannot be read, as a kill leaves it, is passed over with a warning.

    Returns:
        Training and validation scalars, each `{name: {step: value}}`. Of a resumed training the
        later run's count from its first step on; of one begun anew, nothing earlier does.

    Raises:
        ConfigError: If nothing was written.
    """
    files = scalar_files(work_dir)
    if not files:
        raise ConfigError(
            f'no */vis_data/scalars.json in {str(work_dir)!r}: was it trained with LocalVisBackend?'
        )
    train: Scalars = {}
    val: Scalars = {}
    for file in files:
        own_train: Scalars = {}
        own_val: Scalars = {}
        for number, line in enumerate(file.read_text(errors='replace').splitlines(), 1):
            try:
                record = json.loads(line or '{}')
            except ValueError:
                warnings.warn(f'{file}, line {number}: damaged, left out')
                continue
            scalars = own_train if 'loss' in record or 'iter' in record else own_val
            for name, value in record.items():
                if isinstance(value, (int, float)) and name != 'step':
                    scalars.setdefault(name, {})[record['step']] = value
        if own_train and _first_step(own_train) <= _first_step(train):  # begun anew
            train, val = {}, {}
        for scalars, own in ((train, own_train), (val, own_val)):
            _go_on(scalars, own)
    return train, val


def _first_step(scalars: Scalars) -> float:
    return min((step for points in scalars.values() for step in points), default=float('inf'))


def _go_on(scalars: Scalars, own: Scalars) -> None:
    """Put the points of a resumed training in place of those from its first step on."""
    first = _first_step(own)
    for name in [*scalars]:
        scalars[name] = {step: v for step, v in scalars[name].items() if step < first}
        if not scalars[name]:
            scalars.pop(name)
    for name, points in own.items():
        scalars.setdefault(name, {}).update(points)


def link_terms(train: Scalars) -> Scalars:
    """Return the links' terms, `<target>/loss_<name>[<source>:<tap>]`, and no measurements."""
    return {name: points for name, points in train.items() if '/loss_' in name and '[' in name}


def draw_curves(work_dir: str | Path, out: str | Path, members: Sequence[str], metric: str) -> None:
    """Draw losses, links' terms and the metric of each member over training into a PNG.

    Args:
        work_dir: Where the training wrote its logs.
        out: The picture.
        members: Members, then `ensemble`.
        metric: Metric of the validation without the member, e.g. `coco/bbox_mAP`.

    Raises:
        ConfigError: If the training wrote no logs.
    """
    from matplotlib.figure import Figure

    train, val = read_scalars(work_dir)
    panels = [
        (
            'loss of each member',
            'iteration',
            {n: train[f'{n}/loss'] for n in members if f'{n}/loss' in train},
        ),
        ("links' terms", 'iteration', link_terms(train)),
        (
            metric,
            'epoch' if 'epoch' in train else 'iteration',  # as the training counts
            {n: val[f'{n}/{metric}'] for n in members if f'{n}/{metric}' in val},
        ),
    ]
    figure = Figure(figsize=(15, 4.8), layout='constrained')
    for axes, (title, unit, lines) in zip(figure.subplots(1, 3), panels):
        for name, points in lines.items():
            axes.plot(
                list(points),
                list(points.values()),
                label=name,
                linewidth=2.2 if name == 'ensemble' else 1.2,
                marker='o' if len(points) < 30 else None,
                markersize=3,
            )
        axes.set(title=title if lines else f'{title}: none in the log', xlabel=unit)
        axes.grid(alpha=0.3)
        if lines:  # below the axes: inside it would cover curves
            axes.legend(
                fontsize=7, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.13), frameon=False
            )
    figure.savefig(out, dpi=110)
