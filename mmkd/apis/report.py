"""What a finished training gives: a table, pictures, and plain students."""
from pathlib import Path

import torch
from mmengine.analysis import get_model_complexity_info
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.utils import mkdir_or_exist

from mmkd.apis.command_line import metric_table
from mmkd.apis.export import export_member
from mmkd.utils.checkpoint import load_file
from mmkd.visualization import draw_curves, draw_sheet


def find_run(work_dir, checkpoint=None):
    """Return the config file and the checkpoint of a work folder: the best of the ensemble, else the last.

    Raises:
        FileNotFoundError: If either is missing.
    """
    work_dir = Path(work_dir)
    configs = sorted(work_dir.glob('*.py'), key=lambda p: p.stat().st_mtime)
    if not configs:
        raise FileNotFoundError(f'no config (*.py) in {str(work_dir)!r}: it is no work folder of a training')
    if checkpoint is None:
        found = sorted(work_dir.glob('best_ensemble*.pth'), key=lambda p: p.stat().st_mtime)
        last = work_dir / 'last_checkpoint'
        if not found and last.is_file():
            found = [Path(last.read_text().strip())]
        if not found:
            raise FileNotFoundError(f'no checkpoint in {str(work_dir)!r}: has the training reached its first validation?')
        checkpoint = found[-1]
    return configs[-1], Path(checkpoint)


def complexity(model, names, size):
    """Return {name: (parameters in millions, GFLOPs)} of single networks and, as a sum, of the ensemble, at an input `size`."""
    figures = {}
    for name in names:
        if name != 'ensemble':
            info = get_model_complexity_info(model.network(name), (3, *size), show_table=False, show_arch=False)
            figures[name] = (info['params'] / 1e6, info['flops'] / 1e9)
    figures['ensemble'] = tuple(sum(figures[n][i] for n in model.ensemble_members) for i in range(2))
    return figures


def predict_images(model, dataset, count):
    """Predict the first `count` images that have an annotation, for `draw_sheet`."""
    rows = []
    for index in range(len(dataset)):
        if len(rows) == count:
            break
        item = dataset[index]
        truth = item['data_samples'].gt_instances.bboxes
        if not len(truth):
            continue
        sample = item['data_samples']
        results = model.predict_members(dict(inputs=[item['inputs']], data_samples=[sample]))
        scale = torch.tensor(sample.scale_factor).repeat(2)
        boxes = truth.tensor if hasattr(truth, 'tensor') else truth
        if any(t['type'] == 'LoadAnnotations' for t in _before_resize(dataset)):
            boxes = boxes / scale
        rows.append(dict(path=sample.img_path, truth=boxes, predictions={
            name: (r[0].pred_instances.bboxes.cpu(), r[0].pred_instances.scores.cpu()) for name, r in results.items()}))
    return rows


def _before_resize(dataset):
    """Config of the transforms before the (first) resize: annotations loaded there are resized with the image."""
    steps = [dict(type=type(t).__name__) for t in dataset.pipeline.transforms]
    resize = next((i for i, step in enumerate(steps) if 'Resize' in step['type']), len(steps))
    return steps[:resize]


def report(work_dir, checkpoint=None, images=6, metric='coco/bbox_mAP', columns=None):
    """Test every member and the ensemble of a training, draw its curves and a sheet of test images, export its students.

    Args:
        work_dir (str): Work folder of the training; files are written to `<work_dir>/report`.
        checkpoint (str, optional): Default: the ensemble's best, else the last.
        images (int): Images on the sheet. Default: 6.
        metric (str): Metric of the curves.
        columns (dict, optional): Headings of the table by metric.

    Returns:
        tuple[str, list[Path]]: The table and the files written.
    """
    config_file, checkpoint = find_run(work_dir, checkpoint)
    cfg = Config.fromfile(config_file)
    out = Path(work_dir) / 'report'
    mkdir_or_exist(out)
    cfg.work_dir, cfg.load_from, cfg.resume, cfg.launcher = str(out / 'logs'), str(checkpoint), False, 'none'
    loaded = load_file(str(checkpoint), 'checkpoint')
    runner = Runner.from_cfg(cfg)
    metrics = runner.test()
    model, dataset = runner.model, runner.test_dataloader.dataset
    students = model.ensemble_members
    names = [*(name for name in model.plans if name not in students), *students, 'ensemble']
    inputs = model.data_preprocessor(dict(inputs=[dataset[0]['inputs']], data_samples=[dataset[0]['data_samples']]))['inputs']
    figures = complexity(model, names, inputs.shape[-2:])
    for name, (parameters, flops) in figures.items():
        metrics.update({f'{name}/parameters': f'{parameters:.2f} M', f'{name}/flops': f'{flops:.2f}'})
    columns = columns or {'coco/bbox_mAP': 'bbox mAP', 'coco/bbox_mAP_50': 'mAP50'}
    table = metric_table(metrics, names, dict(columns, parameters='parameters', flops='GFLOPs'))
    size = 'x'.join(str(side) for side in inputs.shape[-2:])
    table += f'\n(checkpoint {checkpoint.name}, {len(dataset)} test images, GFLOPs at {size}; the ensemble is the sum of ' \
             f'{" + ".join(students)})'
    files = [out / 'curves.png', out / 'predictions.png', out / 'table.txt']
    draw_curves(work_dir, files[0], names, metric)
    draw_sheet(predict_images(model, dataset, images), names, files[1])
    files[2].write_text(table + '\n')
    for name in [*students, 'ensemble']:
        files += export_member(cfg, loaded['state_dict'], name, out / 'exported' / f'{name}.pth', dataset.metainfo)
    return table, files
