"""What a finished training gives: a table, pictures, and plain students."""

from pathlib import Path

import cv2
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import mkdir_or_exist

from mmkd.apis.command_line import metric_table
from mmkd.export import export_member
from mmkd.utils.checkpoint import load_file
from mmkd.utils.images import write_image
from mmkd.visualization import draw_curves, member_panels, stack_rows


def find_run(work_dir, checkpoint=None):
    """Return the config file and the checkpoint of a work folder: the best of the ensemble, else the last.

    Raises:
        FileNotFoundError: If either is missing.
    """
    work_dir = Path(work_dir)
    configs = sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(
            f'no config (*.py) in {str(work_dir)!r}: it is no work folder of a training'
        )
    if checkpoint is None:
        found = sorted(work_dir.glob('best_ensemble*.pth'), key=lambda p: p.stat().st_mtime)
        last = work_dir / 'last_checkpoint'
        if not found and last.is_file():
            found = [Path(last.read_text().strip())]
        if not found:
            raise FileNotFoundError(
                f'no checkpoint in {str(work_dir)!r}: has the training reached its first validation?'
            )
        checkpoint = found[-1]
    return configs[-1], Path(checkpoint)


def complexity(model, names, size):
    """Return {name: (parameters in millions, GFLOPs)} of single networks and, as a sum, of the ensemble, at an input `size`."""
    figures = {}
    for name in names:
        if name != 'ensemble':
            info = get_model_complexity_info(
                model.network(name), (3, *size), show_table=False, show_arch=False
            )
            figures[name] = (info['params'] / 1e6, info['flops'] / 1e9)
    figures['ensemble'] = tuple(
        sum(figures[n][i] for n in model.ensemble_members) for i in range(2)
    )
    return figures


# Headings of the table by metric; those that the config's evaluator gives are shown.
COLUMNS = {
    'coco/bbox_mAP': 'bbox mAP',
    'coco/bbox_mAP_50': 'mAP50',
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


def compression(figures, students):
    """Tell how much smaller each student is than the teacher, from the networks' own figures."""
    lines = []
    for name in students:
        ratios = [figures['teacher'][i] / figures[name][i] for i in range(2)]
        lines.append(
            f'{name}: {ratios[0]:.1f} times fewer parameters and {ratios[1]:.1f} times fewer FLOPs than the teacher'
        )
    return lines


def report(work_dir, checkpoint=None, images=6):
    """Test every member and the ensemble of a training, draw its curves and a sheet of test images, export its students.

    Args:
        work_dir (str): Work folder of the training; files are written to `<work_dir>/report`.
        checkpoint (str, optional): Default: the ensemble's best, else the last.
        images (int): Images on the sheet. Default: 6.

    Returns:
        tuple[str, list[Path]]: The table and the files written.
    """
    config_file, checkpoint = find_run(work_dir, checkpoint)
    cfg = Config.fromfile(config_file)
    out = Path(work_dir) / 'report'
    mkdir_or_exist(out)
    cfg.work_dir, cfg.load_from, cfg.resume, cfg.launcher = (
        str(out / 'logs'),
        str(checkpoint),
        False,
        'none',
    )
    loaded = load_file(str(checkpoint), 'checkpoint')
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    model, dataset = runner.model, runner.test_dataloader.dataset
    students = model.ensemble_members
    names = model.evaluated
    inputs = model.data_preprocessor(
        dict(inputs=[dataset[0]['inputs']], data_samples=[dataset[0]['data_samples']])
    )['inputs']
    figures = complexity(model, names, inputs.shape[-2:])
    columns = {
        metric: heading for metric, heading in COLUMNS.items() if f'{names[0]}/{metric}' in metrics
    }
    columns = columns or {
        key.split('/', 1)[1]: key.split('/', 1)[1]
        for key in metrics
        if key.startswith(f'{names[0]}/')
    }
    for name, (parameters, flops) in figures.items():
        metrics.update(
            {f'{name}/parameters': f'{parameters:.2f} M', f'{name}/flops': f'{flops:.2f}'}
        )
    lines = [metric_table(metrics, names, dict(columns, parameters='parameters', flops='GFLOPs'))]
    size = 'x'.join(str(side) for side in inputs.shape[-2:])
    lines.append(
        f'(checkpoint {checkpoint.name}, {len(dataset)} test images, GFLOPs at {size}; the ensemble is the sum of '
        f'{" + ".join(students)})'
    )
    lines += compression(figures, students) if 'teacher' in figures else []
    table = '\n'.join(lines)
    files = [out / 'curves.png', out / 'predictions.png', out / 'table.txt']
    draw_curves(work_dir, files[0], names, next(iter(columns)))
    step = max(
        len(dataset) // images, 1
    )  # spread over the set, whose files are often sorted by case
    rows = [
        member_panels(model.eval(), dataset, index)
        for index in range(0, len(dataset), step)[:images]
    ]
    write_image(files[1], cv2.cvtColor(stack_rows(rows), cv2.COLOR_RGB2BGR))
    files[2].write_text(table + '\n')
    for name in [*students, 'ensemble']:
        files += export_member(
            cfg, loaded['state_dict'], name, out / 'exported' / f'{name}.pth', dataset.metainfo
        )
    return table, files
