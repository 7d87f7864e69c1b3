"""The report of a training as one HTML page that needs nothing else."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from mmkd.apis.origins import command_line, read_origins, version_rows, versions
from mmkd.evaluation.polyp_det_metric import matched_by_overlap
from mmkd.export import config_text
from mmkd.schedules import Constant, Schedule
from mmkd.utils.files import write_atomically
from mmkd.visualization.curves import Scalars, link_terms
from mmkd.visualization.panels import Picture, member_pictures

# What `case_score` is by task.
CASE_SCORES = dict(
    DetectionTask='F1 of boxes',
    SegmentationTask='Dice',
    ClassificationTask='probability of the true class',
)
NO_COMMAND = '(not written down: trained by an older mmkd, or not by tools/train.py)'
NOT_MEASURED = 'not measured'
JUDGED = 60  # test images among which the best and the worst are looked for
# Logged by links beside their terms, see docs/concepts.md.
MEASURED = {
    "links' share of the gradient": 'share_',
    "links' cosine": 'cosine_',
    "links' factor when measured (weight x schedule x guard, capped)": 'factor_',
}


def page_packages() -> str | None:
    """Return what is missing for a page, None if nothing is."""
    try:
        import jinja2  # noqa: F401
        import plotly  # noqa: F401
    except ImportError as error:
        return str(error)
    return None


def write_page(
    out: Path,
    cfg: Any,
    model: Any,
    dataset: Any,
    *,
    metrics: Mapping[str, Any],
    table: str,
    scalars: tuple[Scalars, Scalars],
    max_iters: int | None,
    work_dir: Path,
    images: int,
) -> Path:
    """Write `report.html`: tables, curves, pictures with a slider, links, config, versions.

    Versions and command lines are those of the training as far as they are known, and this page's.

    Args:
        out: Folder of the page.
        cfg: The training's config.
        model: The distiller, in eval mode.
        dataset: The test data set.
        metrics: Of all members, `<member>/<metric>`.
        table: The text table with the sizes of the networks.
        scalars: Of training and validation, as `read_scalars` gives them; empty without logs.
        max_iters: Iterations of the whole training, None where that is not known.
        work_dir: Where the training wrote its logs.
        images: How many test images to show, half of them the best, half the worst.
    """
    import jinja2

    train, val = scalars
    origins = read_origins(work_dir)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent), autoescape=True
    )
    text = environment.get_template('report_page.html').render(
        title=f'{work_dir.name}: {", ".join(model.specs)}',
        table=table,
        metrics=metric_rows(metrics, model.evaluated),
        figures=curves(train, val, model.evaluated, list(model.links), max_iters),
        links=link_rows(model.links, train) if len(model.links) else [],
        cases=[_case(model, dataset, *judged) for judged in best_and_worst(model, dataset, images)],
        config=config_text(cfg),
        versions=version_rows(origins, versions()),
        commands=[(origin.run, origin.command or NO_COMMAND) for origin in origins],
        own_command=command_line(),
    )
    path = out / 'report.html'
    write_atomically(path, lambda temporary: Path(temporary).write_text(text, encoding='utf-8'))
    return path


def metric_rows(metrics: Mapping[str, Any], names: Sequence[str]) -> list[list[str]]:
    """Return a head and a row by metric, with a column by member: every number measured."""
    columns: dict[str, dict[str, float]] = {}
    for key, value in metrics.items():
        member, _, metric = key.partition('/')
        if member in names and isinstance(value, int | float | np.number):
            columns.setdefault(metric, {})[member] = float(value)
    rows = [['metric', *names]]
    for metric, values in columns.items():
        rows.append([metric, *(f'{values[n]:.3f}' if n in values else '-' for n in names)])
    return rows


def curves(
    train: Scalars,
    val: Scalars,
    names: Sequence[str],
    links: Sequence[Any] = (),
    max_iters: int | None = None,
) -> list[str]:
    """Return plotly figures as pieces of HTML; the first holds the library.

    Args:
        train: Scalars of the training.
        val: Scalars of the validations.
        names: Members and `ensemble`.
        links: The distiller's, whose weights over the training are drawn where they change.
        max_iters: Iterations of the whole training, for schedules that are given in iterations.
    """
    import plotly.graph_objects as go

    groups: dict[str, Scalars] = {
        'loss of each member': {n: train[f'{n}/loss'] for n in names if f'{n}/loss' in train},
        "links' terms": link_terms(train),
    }
    for title, prefix in MEASURED.items():
        groups[title] = {n: v for n, v in train.items() if f'/{prefix}' in n}
    if train or val:
        groups[WEIGHTS] = weights_over_training(links, max_iters)
    metrics = dict.fromkeys(n.partition('/')[2] for n in val if n.partition('/')[0] in names)
    for metric in metrics:
        groups[metric] = {n: val[f'{n}/{metric}'] for n in names if f'{n}/{metric}' in val}
    counted = 'epoch' if 'epoch' in train else 'iteration'  # as the training counts validations
    pieces: list[str] = []
    for title, lines in groups.items():
        if not lines:
            continue
        figure = go.Figure()
        for name, points in lines.items():
            figure.add_scatter(x=list(points), y=list(points.values()), name=name)
        figure.update_layout(
            title=title,
            height=400,
            margin=dict(l=50, r=20, t=50, b=40),
            xaxis_title={WEIGHTS: '% of the training'}.get(
                title, counted if title in metrics else 'iteration'
            ),
            showlegend=True,
            legend=dict(orientation='h', yanchor='top', y=-0.15),  # plots of one width
        )
        pieces.append(figure.to_html(full_html=False, include_plotlyjs=not pieces))
    return pieces


# ---------------------------------------------------------------- links

WEIGHTS = "links' weight x schedule as configured (a fitted weight counts as 1)"


def weights_over_training(
    links: Sequence[Any], max_iters: int | None = None
) -> dict[str, dict[int, float]]:
    """Return each link's weight x schedule by percent of the training; none where all are constant.

    What a rule or a guard makes of it is logged as the factor; what `only_if_better` does is not.
    """
    if all(isinstance(link.spec.schedule, Constant) for link in links):
        return {}
    return {
        link.terms_on(link.spec.batches[0])[0]: {
            percent: (1.0 if link.rule else link.spec.weight)
            * link.spec.schedule(percent / 100, max_iters)
            for percent in range(101)
        }
        for link in links
    }


def link_rows(links: Iterable[Any], train: Scalars) -> list[list[str]]:
    """Return a head and a row by link, with what was last measured of its gradient."""
    head = ['source', 'target', 'images', 'loss', 'weight', 'schedule', 'guard']
    return [[*head, 'share', 'cosine'], *(_link(link, train) for link in links)]


def _link(link: Any, train: Scalars) -> list[str]:
    spec = link.spec
    weight = _described(spec.weight)
    if link.rule is not None:
        fitted = f'{link.rule.factor():.3g}' if link.rule.measurements else NOT_MEASURED
        weight = f'{weight}, fitted: {fitted}'
    guards = [_described(spec.guard)] if spec.guard is not None else []
    if spec.only_if_better is not None:
        guards.append(f'only_if_better={spec.only_if_better!r}')
    return [
        f'{spec.label}: {spec.source_tap}',
        f'{spec.target}: {spec.target_tap}',
        spec.on,
        type(link.loss).__name__,
        weight,
        _described(spec.schedule),
        ', '.join(guards) or '-',
        *(_last(train.get(spec.log_key(kind))) for kind in ('share', 'cosine')),
    ]


def _described(value: Any) -> str:
    """Return a config with `type`, or a schedule, as its call; anything else as its text."""
    if isinstance(value, Schedule):
        kept = {k: v for k, v in vars(value).items() if not k.startswith('_')}
        # Constant can't keep its argument under its name: that of the method.
        options = {'value' if k == 'constant' else k: v for k, v in kept.items()}
        name = type(value).__name__
    elif isinstance(value, Mapping):
        options = {k: v for k, v in value.items() if k != 'type'}
        name = str(value.get('type', ''))
    else:
        return str(value)
    listed = ', '.join(
        f'{k}={_described(v) if isinstance(v, Schedule) else repr(v)}' for k, v in options.items()
    )
    return f'{name}({listed})'


def _last(points: Mapping[int, float] | None) -> str:
    return f'{points[max(points)]:.3g}' if points else NOT_MEASURED


# ---------------------------------------------------------------- pictures


def best_and_worst(model: Any, dataset: Any, images: int) -> list[tuple[int, float]]:
    """Return places of test images, and the ensemble's score there: the worst first.

    They are the worst and the best of up to 60 images spread over the set.
    """
    step = max(len(dataset) // JUDGED, 1)
    scored = sorted(
        ((index, case_score(model, dataset, index)) for index in range(0, len(dataset), step)),
        key=lambda case: case[1],
    )
    worst = (images + 1) // 2
    best = scored[worst:][::-1][: images - worst]
    return scored[:worst] + best[::-1]


@torch.no_grad()
def case_score(model: Any, dataset: Any, index: int) -> float:
    """Return how good the ensemble is on a test image, in [0, 1].

    Boxes with a score from 0.3 on: their F1 at IoU 0.5. Maps: Dice over all classes but the first.
    Both are 1 where there is nothing and nothing is found. Labels: the probability of the true one.
    """
    item = dataset[index]
    data = dict(inputs=[item['inputs']], data_samples=[item['data_samples']])
    sample = model.predict_members(data, ['ensemble'])['ensemble'][0].cpu()
    gt = model.task.drawing.gt_of(dataset, index, item['data_samples'])
    if 'pred_instances' in sample:
        found = sample.pred_instances
        found = found[found.scores >= 0.3]
        boxes = found.bboxes[found.scores.argsort(descending=True)].numpy()
        polyps = gt.pred_instances.bboxes.numpy()
        total = len(boxes) + len(polyps)
        return 2 * float(matched_by_overlap(boxes, polyps, 0.5).sum()) / total if total else 1.0
    if 'pred_sem_seg' in sample:
        own = sample.pred_sem_seg.data.long().squeeze()
        true = gt.pred_sem_seg.data.cpu().long().squeeze()
        own, true = own.masked_fill(true == 255, 0), true.masked_fill(true == 255, 0)
        both = ((own == true) & (true > 0)).sum()
        total = (own > 0).sum() + (true > 0).sum()
        return float(2 * both / total) if total else 1.0
    return float(sample.pred_score[gt.pred_label].max())


def _case(model: Any, dataset: Any, index: int, score: float) -> dict[str, Any]:
    pictures = member_pictures(model, dataset, index)
    return dict(
        title=pictures[0].title.removeprefix('ground truth').strip(),
        kind=CASE_SCORES.get(type(model.task).__name__, 'score'),
        score=f'{score:.2f}',
        pictures=[dict(title=_heading(p), data=_embedded(p)) for p in pictures],
    )


def _heading(picture: Picture) -> str:
    return 'ground truth' if picture.title.startswith('ground truth') else picture.title


def _embedded(picture: Picture) -> str:
    _, data = cv2.imencode(
        '.jpg', cv2.cvtColor(picture.image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 88]
    )
    return 'data:image/jpeg;base64,' + base64.b64encode(data.tobytes()).decode()
