import json
from pathlib import Path

from matplotlib.figure import Figure


def read_scalars(work_dir):
    """Read what mmengine's LocalVisBackend wrote in all runs of a work folder.

    Returns:
        tuple[dict, dict]: Training and validation scalars, each `{name: {step: value}}`; where runs overlap (a resumed one)
        the later counts.

    Raises:
        FileNotFoundError: If nothing was written.
    """
    files = sorted(Path(work_dir).glob('*/vis_data/scalars.json'))
    if not files:
        raise FileNotFoundError(
            f'no */vis_data/scalars.json in {work_dir}: was it trained with LocalVisBackend?'
        )
    train, val = {}, {}
    for line in (line for file in files for line in file.read_text().splitlines()):
        record = json.loads(line)
        scalars = train if 'loss' in record else val
        for name, value in record.items():
            if isinstance(value, (int, float)) and name != 'step':
                scalars.setdefault(name, {})[record['step']] = value
    return train, val


def draw_curves(work_dir, out, members, metric):
    """Draw losses, links' terms and the metric of each member over training into a PNG.

    Args:
        work_dir (str): Where the training wrote its logs.
        out (str): The picture.
        members (list[str]): Members, then `ensemble`.
        metric (str): Metric without the member, e.g. `coco/bbox_mAP`.
    """
    train, val = read_scalars(work_dir)
    panels = [
        (
            'loss of each member',
            'iteration',
            {n: train[f'{n}/loss'] for n in members if f'{n}/loss' in train},
        ),
        ("links' terms", 'iteration', {n: v for n, v in train.items() if '[' in n}),
        (metric, 'epoch', {n: val[f'{n}/{metric}'] for n in members if f'{n}/{metric}' in val}),
    ]
    figure = Figure(figsize=(15, 4.2), layout='constrained')
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
        if lines:
            axes.legend(fontsize=7)
    figure.savefig(out, dpi=110)
