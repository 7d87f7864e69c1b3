"""One preprocessing for all members, and what brings its result to a member's own normalisation."""

import math

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log


def shared_preprocessor_config(configs, given=None):
    """Return the config of the preprocessor for all members: the one given, else the first member's, padded for all.

    Args:
        configs (dict[str, dict]): Members' model configs.
        given (dict, optional): Config of the shared preprocessor; without `type` it has the first member's.
    """
    preprocessors = {
        name: dict(cfg.get('data_preprocessor') or {}) for name, cfg in configs.items()
    }
    first = next(iter(preprocessors))
    if given is not None:
        given = ConfigDict(given).copy()
        if 'type' not in given:
            given['type'] = preprocessors[first].get('type', 'BaseDataPreprocessor')
            given.setdefault('_scope_', configs[first].get('_scope_'))
        return given
    shared = ConfigDict(preprocessors[first]).copy()
    if '_scope_' in configs[first]:
        shared.setdefault('_scope_', configs[first]['_scope_'])
    divisors = [p.get('pad_size_divisor', 1) for p in preprocessors.values()]
    if len(set(divisors)) > 1:
        shared['pad_size_divisor'] = math.lcm(*divisors)
    others = [
        n
        for n, p in preprocessors.items()
        if p.get('batch_augments') != preprocessors[first].get('batch_augments')
    ]
    if others:
        print_log(
            f"batch_augments: those of '{first}' serve all members; left unused: those of {', '.join(others)} "
            '(model.data_preprocessor sets others)',
            logger='current',
        )
    return shared


def _statistics(preprocessor):
    if getattr(preprocessor, '_enable_normalize', False):
        return preprocessor.mean.view(-1, 1, 1), preprocessor.std.view(-1, 1, 1)
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


def _swaps_channels(preprocessor):
    # mmpretrain's own name for mmengine's `_channel_conversion`.
    return bool(
        getattr(preprocessor, '_channel_conversion', False)
        or getattr(preprocessor, 'to_rgb', False)
    )


class Renormalize:
    """Bring images of the shared preprocessing to a member's own mean, std, channel order and padding value.

    Args:
        shared (BaseDataPreprocessor): The preprocessor that made the images.
        own (BaseDataPreprocessor): The member's.
    """

    def __init__(self, shared, own):
        (mean_s, std_s), (mean_o, std_o) = _statistics(shared), _statistics(own)
        self.swap = _swaps_channels(shared) != _swaps_channels(own)
        if self.swap:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale = (std_s / std_o).float()
        self.shift = ((mean_s - mean_o) / std_o).float()
        self.pad_value = float(getattr(own, 'pad_value', 0))

    @property
    def is_identity(self):
        return not self.swap and bool((self.scale == 1).all() and (self.shift == 0).all())

    def __call__(self, inputs, data_samples):
        """Convert images (N, 3, H, W); what lies outside a sample's `img_shape` becomes the member's padding value."""
        self.scale, self.shift = self.scale.to(inputs.device), self.shift.to(inputs.device)
        images = (inputs.flip(1) if self.swap else inputs) * self.scale + self.shift
        for image, sample in zip(images, data_samples or []):
            h, w = sample.img_shape[:2]
            image[:, h:] = self.pad_value
            image[:, :, w:] = self.pad_value
        return images
