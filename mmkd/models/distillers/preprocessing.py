"""One preprocessing for all members, and what brings its result to a member's normalization."""

import logging
import math
from collections.abc import Mapping
from typing import Any

import torch
from mmengine.config import ConfigDict
from mmengine.logging import print_log
from torch import Tensor, nn

from mmkd.models.utils.once import once
from mmkd.utils.checks import LARGEST, check_number
from mmkd.utils.errors import ConfigError

CLASSIFIERS = ('ImageClassifier', 'TimmClassifier', 'HuggingFaceClassifier')


def shared_preprocessor_config(
    configs: Mapping[str, Mapping[str, Any]], given: Mapping[str, Any] | None = None
) -> ConfigDict:
    """Return the config of the preprocessor for all members.

    It is the one given, else that of the first member that has one, padded to a common multiple of
    all divisors.

    Args:
        configs: Members' model configs by name.
        given: Config of the shared preprocessor; without `type` it has that of the first member
            that has one.

    Raises:
        ConfigError: If none is given and members pad to different sizes.
    """
    preprocessors = {
        name: dict(cfg.get('data_preprocessor') or {}) for name, cfg in configs.items()
    }
    if not isinstance(given, Mapping | None):
        raise ConfigError(f'model.data_preprocessor: expected a dict, got {given!r}')
    first = next((name for name, own in preprocessors.items() if own), next(iter(preprocessors)))
    if given is not None:
        shared = ConfigDict(given).copy()
        if 'type' not in shared:
            shared['type'] = preprocessors[first].get('type', 'BaseDataPreprocessor')
            shared.setdefault('_scope_', configs[first].get('_scope_'))
        return shared
    shared = ConfigDict(preprocessors[first]).copy()
    if '_scope_' in configs[first]:
        shared.setdefault('_scope_', configs[first]['_scope_'])
    shared.setdefault('type', 'BaseDataPreprocessor')  # as mmengine's BaseModel
    _join_padding(shared, preprocessors, '')
    tests = {name: dict(p.get('test_cfg') or {}) for name, p in preprocessors.items()}
    if any(tests.values()):  # mmseg's padding in evaluation
        shared['test_cfg'] = dict(tests[first])
        _join_padding(shared['test_cfg'], tests, 'test_cfg.')
    return shared


def _join_padding(shared: dict[str, Any], own: Mapping[str, Mapping[str, Any]], key: str) -> None:
    """Pad to a common multiple of the members' divisors; refuse sizes that differ."""
    sizes = {name: p.get('size') and tuple(p['size']) for name, p in own.items()}
    if len(set(sizes.values())) > 1:
        listed = ', '.join(f'{name} {size}' for name, size in sizes.items())
        raise ConfigError(
            f'model.data_preprocessor: must be given, since one preprocessor serves all members '
            f'and they differ in {key}size, to which images are padded: {listed}'
        )
    for name in ('pad_size_divisor', 'size_divisor'):
        divisors = [p[name] for p in own.values() if p.get(name)]
        if divisors:
            shared[name] = math.lcm(*divisors)


def tell_unused_augments(
    configs: Mapping[str, Mapping[str, Any]], shared: Mapping[str, Any]
) -> None:
    """Log whose batch augmentations are left unused, as one preprocessing serves all members.

    Args:
        configs: Members' model configs by name.
        shared: Config of the shared preprocessor.
    """
    used = shared.get('batch_augments')
    unused = [name for name, cfg in configs.items() if _augments(cfg) not in (None, [], used)]
    if unused:
        print_log(
            f'batch_augments: the shared ones ({"some" if used else "none"}) serve all members; '
            f'left unused: those of {", ".join(unused)} (model.data_preprocessor.batch_augments '
            'sets them)',
            logger='current',
        )


def tell_other_padding(configs: Mapping[str, Mapping[str, Any]], top: Mapping[str, Any]) -> None:
    """Warn if a preprocessor that a Runner handed over pads images otherwise than members' own.

    mmengine hands over what stands at the top level of a config, often as its base left it.

    Args:
        configs: Members' model configs by name.
        top: The top-level `data_preprocessor`.
    """
    own = {name: cfg.get('data_preprocessor') or {} for name, cfg in configs.items()}
    told = []
    for key in ('size', 'size_divisor', 'pad_size_divisor'):
        value = _as_tuple(top.get(key))
        asked = {name: _as_tuple(cfg.get(key)) for name, cfg in own.items()}
        others = [f'{n} {x}' for n, x in asked.items() if x is not None and not _serves(value, x)]
        if value is not None and others:
            told.append(f'{key} {value} in place of {", ".join(others)}')
    if told:
        print_log(
            'data_preprocessor, at the top level of the config, pads the images of all members: '
            f'{"; ".join(told)}. Say data_preprocessor = None there for their own, or '
            'model.data_preprocessor if it is meant',
            logger='current',
            level=logging.WARNING,
        )


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _serves(shared: Any, own: Any) -> bool:
    """Whether images padded to `shared`, a size or divisor, are what a member asks for."""
    if isinstance(shared, int) and isinstance(own, int):
        return shared % own == 0
    return bool(shared == own)


def _augments(cfg: Mapping[str, Any]) -> Any:
    """Return a member's own batch augmentations; classifiers have them in `train_cfg`, too."""
    own = (cfg.get('data_preprocessor') or {}).get('batch_augments')
    return cfg.get('train_cfg') if own is None and is_classifier(cfg) else own


def is_classifier(cfg: Mapping[str, Any]) -> bool:
    """Whether a config is of an MMPretrain network, whose preprocessing has a default type."""
    return str(cfg.get('type')).rpartition('.')[2] in CLASSIFIERS


def preprocess_unlabeled(
    preprocessor: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
) -> Any:
    """Preprocess the `unlabeled` batch inside a loader's batch (a forward hook of the shared one).

    As in evaluation: without the batch augmentations, which may need labels.

    Raises:
        ConfigError: If images of different sizes cannot be one batch.
    """
    data = args[0] if args else kwargs['data']
    if isinstance(data, dict) and data.get('unlabeled') is not None:
        images = data['unlabeled']['inputs']
        try:
            output['unlabeled'] = preprocessor(data['unlabeled'], False)
        except (AssertionError, RuntimeError, ValueError) as error:
            sizes = sorted({(image.shape[-1], image.shape[-2]) for image in images})
            if len(sizes) < 2:
                raise
            raise ConfigError(
                'unlabeled_dataloader: images of several sizes cannot be one batch: '
                f'{", ".join(f"{w} x {h}" for w, h in sizes[:4])}; its pipeline needs a Resize (or '
                'RandomCrop, Pad) to one size'
            ) from error
    return output


def pixel_statistics(preprocessor: nn.Module) -> tuple[Tensor, Tensor]:
    """Return mean and standard deviation (3, 1, 1) that images are normalized with."""
    if getattr(preprocessor, '_enable_normalize', False):
        mean, std = torch.as_tensor(preprocessor.mean), torch.as_tensor(preprocessor.std)
        return mean.view(-1, 1, 1), std.view(-1, 1, 1)
    return torch.zeros(3, 1, 1), torch.ones(3, 1, 1)


def check_statistics(preprocessor: nn.Module, key: str) -> None:
    """Raise a ConfigError unless images can be normalized with a preprocessor's mean and std."""
    mean, std = pixel_statistics(preprocessor)
    for name, values, least in (('mean', mean, -LARGEST), ('std', std, 1 / LARGEST)):
        for value in values.flatten().tolist():
            check_number(value, f'{key}.{name}', least)


def _attribute(preprocessor: nn.Module, names: tuple[str, ...], default: Any) -> Any:
    """Return the first attribute there is: the toolboxes and their forks name them differently."""
    for name in names:
        if hasattr(preprocessor, name):
            return getattr(preprocessor, name)
    return default


def swaps_channels(preprocessor: nn.Module) -> bool:
    """Whether images are turned from BGR to RGB, or back."""
    # mmengine and mmdet; mmseg up to 1.2; mmpretrain.
    names = ('_channel_conversion', 'channel_conversion', 'to_rgb')
    return bool(_attribute(preprocessor, names, False))


class Renormalize:
    """Bring images of the shared preprocessing to a member's own.

    What may differ are mean, standard deviation and channel order. Where one does, the padding is
    filled with the member's own value, after the normalization. A member that differs in this value
    alone sees the shared padding.

    Args:
        shared: The preprocessor that made the images.
        own: The member's.
    """

    def __init__(self, shared: nn.Module, own: nn.Module) -> None:
        (mean_s, std_s), (mean_o, std_o) = pixel_statistics(shared), pixel_statistics(own)
        self.swap = swaps_channels(shared) != swaps_channels(own)
        if self.swap:
            mean_s, std_s = mean_s.flip(0), std_s.flip(0)
        self.scale = (std_s / std_o).float()
        self.shift = ((mean_s - mean_o) / std_o).float()
        # mmengine and mmdet; mmseg up to 1.2.
        self.pad_value = float(_attribute(own, ('pad_value', 'pad_val'), 0))
        numbers = torch.cat([self.scale, self.shift]).flatten().tolist()
        self.key = 'renormalized', self.swap, self.pad_value, *numbers

    @property
    def is_identity(self) -> bool:
        """Whether nothing differs."""
        return not self.swap and bool((self.scale == 1).all() and (self.shift == 0).all())

    def __call__(self, inputs: Tensor, data_samples: list[Any] | None) -> Tensor:
        """Convert images (N, 3, H, W); outside a sample's `img_shape` they are padding.

        Members that take the same images share them: they are made once of one `inputs`.
        """
        return once(inputs, self.key, lambda: self._converted(inputs, data_samples))

    def _converted(self, inputs: Tensor, data_samples: list[Any] | None) -> Tensor:
        self.scale, self.shift = self.scale.to(inputs.device), self.shift.to(inputs.device)
        images = (inputs.flip(1) if self.swap else inputs) * self.scale + self.shift
        size = images.shape[-2:]
        for image, sample in zip(images, data_samples or []):
            h, w = sample.img_shape[:2]
            if (h, w) != size:
                image[:, h:] = self.pad_value
                image[:, :, w:] = self.pad_value
        return images
