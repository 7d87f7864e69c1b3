import json
from collections.abc import Sequence
from pathlib import Path

Scalars = dict[str, dict[int, float]]


def read_scalars(work_dir: str | Path) -> tuple[Scalars, Scalars]:
    """Read what mmengine's LocalVisBackend wrote in all runs of a work folder.

    Returns:
        Training and validation scalars, each `{name: {step: value}}`; where runs overlap (a resumed
        one) the later counts.

    Raises:
        FileNotFoundError: If nothing was written.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'no */vis_data/scalars.json in {work_dir}: was it trained with LocalVisBackend?'
        )
    train: Scalars = {}
    val: Scalars = {}
    for line in (line for file in files for line in file.read_text().splitlines()):
        record = json.loads(line)
        scalars = train if 'loss' in record else val
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != 'step':
                scalars.setdefault(name, {})[record['step']] = value
    return train, val


def draw_curves(work_dir: str | Path, out: str | Path, members: Sequence[str], metric: str) -> None:
    """Draw losses, links' terms and the metric of each member over training into a PNG.

    Args:
        work_dir: Where the training wrote its logs.
        out: The picture.
        members: Members, then `ensemble`.
        metric: Metric without the member, e.g. `coco/bbox_mAP`.
    """
    from matplotlib.figure import Figure

    train, val = read_scalars(work_dir)
    panels = [
        (
            'loss of each member',
            'iteration',
            {n: train[f'{n}/loss'] for n in members if f'{n}/loss' in train},
        ),
        ("links' terms", 'iteration', {n: v for n, v in train.items() if '[' in n}),
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
        axes.set(title=title, xlabel=unit)
        axes.grid(alpha=0.3)
        if lines:  # below the axes: inside it would cover curves
            axes.legend(
                fontsize=7, ncols=2, loc='upper center', bbox_to_anchor=(0.5, -0.13), frameon=False
            )
    figure.savefig(out, dpi=110)
