"""What a finished training gives: a table, pictures, and plain students."""

from __future__ import annotations

import copy
import statistics
import warnings
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import Any

import cv2
from mmengine.analysis import FlopAnalyzer, parameter_count
from torch import Tensor, nn

from mmkd.apis.command_line import metric_table
from mmkd.apis.exporting import config_of_run
from mmkd.apis.report_page import page_packages, write_page
from mmkd.apis.training import build_runner
from mmkd.export import export_member
from mmkd.utils.checkpoint import check_members, find_latest, hand_over, load_file
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.images import write_image
from mmkd.utils.model import distiller_of
from mmkd.utils.roles import teacher_of
from mmkd.utils.test_sets import GAP, SEEN, UNSEEN
from mmkd.visualization import draw_curves, member_panels, stack_rows
from mmkd.visualization.curves import Scalars, read_scalars, scalar_files

# Headings of the table by metric; those that the config's evaluator gives are shown.
COLUMNS = {
    'coco/bbox_mAP': 'bbox mAP',
    'coco/bbox_mAP_50': 'mAP50',
    'polyp/dice': 'polyp Dice',
    'polyp/iou': 'polyp IoU',
    'polyp/precision': 'precision',
    'polyp/recall': 'recall',
    'polyp/f1': 'F1',
    'polyp/fp_per_frame': 'FP/frame',
    'mIoU': 'mIoU',
    'mDice': 'mDice',
    'mFscore': 'mFscore',
    'mPrecision': 'mPrecision',
    'mRecall': 'mRecall',
    'accuracy/top1': 'top-1',
    'binary/auc': 'AUC',
    'binary/f1': 'F1',
    'binary/sensitivity': 'sensitivity',
    'binary/specificity': 'specificity',
}
SAME = {'mFscore': 'mDice'}  # two names of one figure: the F1 score of pixels is their Dice
# Over several sets: most figures have a column for each kind of set, so that two fill a screen.
OVER_SETS = {'polyp/ap50': 'AP50', **COLUMNS}
FIGURES_OVER_SETS = 2


def checkpoint_of(work_dir: Path) -> tuple[str, Any]:
    """Return a work folder's checkpoint, path and content: the ensemble's best, else the last.

    Raises:
        ConfigError: If there is no folder or no checkpoint that can be read.
    """
    if not work_dir.is_dir():
        raise ConfigError(f'no work folder {str(work_dir)!r} (from {Path.cwd()})')
    best = sorted(work_dir.glob('best_ensemble*.pth'), key=lambda p: p.lstat().st_mtime)
    for path in reversed(best):
        try:
            return str(path), load_file(str(path), 'checkpoint')
        except ConfigError as error:
            warnings.warn(f'{error}; trying another one')
    found = find_latest(work_dir)
    if found is None:
        raise ConfigError(
            f'no checkpoint in {str(work_dir)!r}: has the training reached its first validation?'
        )
    return found


class _OnImage(nn.Module):
    """A network on one image whose sample two-stage and query-based detectors ask for."""

    def __init__(self, network: nn.Module, data_samples: list[Any]) -> None:
        super().__init__()
        self.network, self.data_samples = network, data_samples

    def forward(self, image: Tensor) -> Any:
        return self.network(image, self.data_samples, mode='tensor')


def complexity(
    model: Any, names: Sequence[str], image: Tensor, data_samples: list[Any]
) -> dict[str, tuple[float, float | None]]:
    """Count parameters and FLOPs of the networks on an image; the ensemble's are their sums.

    Args:
        model: An `OnlineDistiller`.
        names: Members.
        image: Preprocessed, (1, 3, H, W).
        data_samples: The image's.

    Returns:
        Millions of parameters and GFLOPs by name; None for FLOPs that cannot be counted, as of
        MMSegmentation's query-based heads.
    """
    figures: dict[str, tuple[float, float | None]] = {}
    for name in dict.fromkeys([*names, *model.ensemble_members]):
        if name != 'ensemble':
            network = model.network(name)
            flops = FlopAnalyzer(_OnImage(network, data_samples), (image,))
            # Norms, activations and resizing are not counted; a line for each says no more.
            flops.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            count: float | None = None
            try:
                count = flops.total() / 1e9
            except (TypeError, AssertionError, RuntimeError) as error:
                warnings.warn(f'{name}: its FLOPs are not counted: {error}')
            figures[name] = (parameter_count(network)[''] / 1e6, count)
    parts = [figures[name] for name in model.ensemble_members]
    counts = [flops for _, flops in parts if flops is not None]
    together = sum(counts) if len(counts) == len(parts) else None
    figures['ensemble'] = (sum(p for p, _ in parts), together)
    return figures


def table_columns(metrics: Mapping[str, Any], names: Sequence[str]) -> dict[str, str]:
    """Choose the columns of the table: the known metrics of any row, else all that are numbers.

    Of what `mmkd.SeenUnseenEvaluator` measured: the first two figures over the seen sets, the
    unseen ones, and the gap.
    """
    given = [
        key.split('/', 1)[1]
        for name in names
        for key, value in metrics.items()
        if key.startswith(f'{name}/') and isinstance(value, Real)  # mmseg's are numpy's
    ]
    over_sets = [key.partition('/')[2] for key in given if key.startswith(f'{GAP}/')]
    if over_sets:
        chosen = _known(over_sets, OVER_SETS)
        return {
            f'{kind}/{figure}': f'{kind} {chosen[figure]}'
            for figure in list(chosen)[:FIGURES_OVER_SETS]
            for kind in (SEEN, UNSEEN, GAP)
        }
    return _known(given, COLUMNS)


def _known(given: Sequence[str], headings: Mapping[str, str]) -> dict[str, str]:
    columns = {
        metric: heading
        for metric, heading in headings.items()
        if metric in given and SAME.get(metric) not in given
    }
    return columns or {metric: metric for metric in given}


def curve_metric(columns: Sequence[str], val: Scalars, names: Sequence[str]) -> str:
    """Choose a metric that the validation has: the table's first, a known one, else any.

    Args:
        columns: The table's metrics; the test may have others than the validation.
        val: Scalars of the validations, `<member>/<metric>`.
        names: Members and `ensemble`.
    """
    measured = [key.partition('/')[2] for key in val if key.partition('/')[0] in names]
    kinds = tuple(f'{kind}/' for kind in (SEEN, UNSEEN, GAP))
    plain = [column.partition('/')[2] for column in columns if column.startswith(kinds)]
    wanted = [*columns, *plain, *COLUMNS, *measured]
    return next((metric for metric in wanted if metric in measured), 'metric of the validation')


def training_cost(train: Scalars) -> list[str]:
    """Say how long a step of the training took and how much GPU memory, as far as it is logged.

    Args:
        train: Scalars of the training: `time` and `data_time` in s a step, `memory` in MB.
    """
    if not train.get('time'):
        return []
    line = f'a step of the training: {statistics.median(train["time"].values()):.3g} s'
    if train.get('data_time'):
        line += f', {statistics.median(train["data_time"].values()):.3g} s of it waiting for data'
    memory = 'GPU memory not logged'
    if train.get('memory'):
        memory = f'at most {max(train["memory"].values()):.0f} MB of GPU memory'
    return [f'{line} (medians of the log); {memory}']


def compression(
    figures: Mapping[str, tuple[float, float | None]], students: Sequence[str], teacher: str
) -> list[str]:
    """Say how each student's size compares with the teacher's, from the networks' own figures."""
    lines = []
    for name in students:
        parts = []
        for (big, small), what in zip(
            zip(figures[teacher], figures[name]), ('parameters', 'FLOPs')
        ):
            if not big or not small:
                continue
            fewer = big >= small
            ratio = big / small if fewer else small / big
            parts.append(f'{ratio:.1f} times {"fewer" if fewer else "more"} {what}')
        if parts:
            lines.append(f'{name}: {" and ".join(parts)} than {teacher}')
    return lines


def report(
    work_dir: str | Path, checkpoint: str | None = None, images: int = 6
) -> tuple[str, list[Path]]:
    """Test every member and the ensemble, draw curves and test images, export the students.

    Without the training's logs there are no curves, which table and page say.

    Args:
        work_dir: Work folder of the training; files are written to `<work_dir>/report`.
        checkpoint: Default: the ensemble's best, else the last.
        images: Images on the sheet.

    Returns:
        The table and the files written.

    Raises:
        ConfigError: If config or checkpoint are missing, or do not fit together.
    """
    work_dir = Path(work_dir)
    if checkpoint is None:
        checkpoint, loaded = checkpoint_of(work_dir)
    else:
        loaded = load_file(checkpoint, '--checkpoint')
    cfg = config_of_run(work_dir, loaded, f'{work_dir}: no training config for {checkpoint}')
    trained, out = copy.deepcopy(cfg), work_dir / 'report'
    with wrong_paths():
        out.mkdir(parents=True, exist_ok=True)
    cfg.work_dir, cfg.load_from = str(out / 'logs'), checkpoint
    cfg.resume, cfg.launcher = False, 'none'
    train, val = read_scalars(work_dir) if scalar_files(work_dir) else ({}, {})
    runner = build_runner(cfg)
    check_members(runner.model, loaded, f'--checkpoint: {checkpoint!r}')
    hand_over(checkpoint, loaded)
    metrics = runner.test()
    model, dataset = distiller_of(runner.model), runner.test_dataloader.dataset
    students, names = model.ensemble_members, model.evaluated
    columns = table_columns(metrics, names)
    table = _table(runner, metrics, columns, Path(checkpoint).name, train)
    curves, pictures, text = out / 'curves.png', out / 'predictions.png', out / 'table.txt'
    files = [pictures, text]
    if train or val:
        draw_curves(work_dir, curves, names, curve_metric(list(columns), val, names))
        files.insert(0, curves)
    else:
        table += f'\n(no curves: no */vis_data/scalars.json of the training in {work_dir})'
    # Spread over the set, whose files are often sorted by case.
    step = max(len(dataset) // images, 1)
    rows = [
        member_panels(model.eval(), dataset, index)
        for index in range(0, len(dataset), step)[:images]
    ]
    write_image(pictures, cv2.cvtColor(stack_rows(rows), cv2.COLOR_RGB2BGR))
    text.write_text(table + '\n')
    missing = page_packages()
    if missing is None:
        info = (loaded.get('message_hub') or {}).get('runtime_info') or {}
        page = write_page(
            out,
            trained,
            model,
            dataset,
            metrics=metrics,
            table=table,
            scalars=(train, val),
            max_iters=info.get('max_iters'),
            work_dir=work_dir,
            images=images,
        )
        files.insert(0, page)
    else:
        table += f'\n(no report.html: {missing}: pip install "mmkd[report]")'
    for name in [*students, 'ensemble']:
        path = out / 'exported' / f'{name}.pth'
        files += export_member(cfg, loaded['state_dict'], name, path, dataset.metainfo)
    return table, files


def _table(
    runner: Any,
    metrics: dict[str, Any],
    columns: dict[str, str],
    checkpoint: str,
    train: Scalars,
) -> str:
    model, dataset = distiller_of(runner.model), runner.test_dataloader.dataset
    students, names = model.ensemble_members, model.evaluated
    first = dict(inputs=[dataset[0]['inputs']], data_samples=[dataset[0]['data_samples']])
    batch = model.data_preprocessor(first)
    inputs = batch['inputs']
    figures = complexity(model, names, inputs, batch['data_samples'])
    shown = dict(metrics)
    for name, (parameters, flops) in figures.items():
        shown[f'{name}/parameters'] = f'{parameters:.2f} M'
        shown[f'{name}/flops'] = '-' if flops is None else f'{flops:.3g}'
    columns = dict(columns, parameters='parameters', flops='GFLOPs')
    size = 'x'.join(str(side) for side in inputs.shape[-2:])
    lines = [
        metric_table(shown, names, columns),
        f'(checkpoint {checkpoint}, {len(dataset)} test images, GFLOPs at {size}; the ensemble is '
        f'the sum of {" + ".join(students)}; report/exported/ holds the networks of this '
        'checkpoint, best_members/ each network at its own best epoch)',
    ]
    teacher = teacher_of(runner.cfg.model.get('sharing'))
    if teacher in figures:
        lines += compression(figures, [name for name in students if name != teacher], teacher)
    if any(column.startswith(f'{GAP}/') for column in columns):
        lines.append(
            '(seen, unseen: means over the sets of a kind, gap: seen minus unseen; each set and '
            'all figures: report.html, or the last .json in report/logs)'
        )
    return '\n'.join([*lines, *training_cost(train)])
