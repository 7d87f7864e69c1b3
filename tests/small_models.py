"""Checkpoints of small untrained models of the three tasks, from the demo configs."""

import conftest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from mmkd.export import config_text, self_contained

CLASSES = dict(det=('polyp',), seg=('background', 'polyp'), cls=('no polyp', 'polyp'))


def config(task, data, folder):
    """The task's demo config with narrow members, on the synthetic set `data`."""
    if task == 'det':
        return conftest.small_config(data, folder / 'work')
    from wrong_inputs_table import CLASSIFICATION, SEGMENTATION

    text = SEGMENTATION if task == 'seg' else CLASSIFICATION
    (folder / f'{task}.py').write_text(text.format(root=conftest.ROOT, data=data))
    return Config.fromfile(folder / f'{task}.py')


def write_checkpoint(task, data, folder, **changes):
    """Write `<task>/epoch_1.pth` and the config beside it as a training leaves them.

    The normalization's statistics are those of random images, or all outputs would be alike.
    """
    cfg = config(task, data, folder)
    cfg.merge_from_dict(changes)
    init_default_scope(cfg.default_scope)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    model.init_weights()
    model.train()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith('bias') and ('conv_obj' in name or 'conv_cls' in name):
                parameter.zero_()  # they begin at scores so low that the ensemble drops all boxes
        for _ in range(3):
            model(
                model.data_preprocessor(
                    dict(inputs=[torch.randint(0, 256, (3, 64, 64), dtype=torch.uint8)] * 2)
                )['inputs']
            )
    place = folder / task
    place.mkdir()
    self_contained(cfg)
    (place / 'config.py').write_text(config_text(cfg))
    meta = dict(dataset_meta=dict(classes=CLASSES[task], palette=[(0, 0, 0), (255, 0, 0)]))
    torch.save(dict(state_dict=model.state_dict(), meta=meta), place / 'epoch_1.pth')
    return place / 'epoch_1.pth'
