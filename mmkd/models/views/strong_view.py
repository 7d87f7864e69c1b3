from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd.registry import MODELS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError


class Changed(NamedTuple):
    """Changed images (N, 3, H, W), and what moves a source's prediction along with them."""

    inputs: Tensor
    move: Callable[[Any], Any]


@MODELS.register_module()
class StrongView(nn.Module):
    """The strong view of unlabeled images, made on the device from the weak one.

    Learning from a weak view's prediction on a strong view is FixMatch's idea (arXiv 2001.07685).
    Color jitter, gray, blur and cutout leave positions where they are, so a source's prediction on
    the weak view needs no change. CutMix (arXiv 1905.04899, as CPS and UCMT use it) pastes a box
    of the next image of the batch into each, and the same box of its prediction. The numbers are
    mmkd's choice, near those of UCMT (arXiv 2301.04465).

    Args:
        jitter: Strength of brightness, contrast and saturation; hue gets half of it. 0: none.
        gray: Probability of a gray image.
        blur: Probability of a Gaussian blur with sigma in [0.1, 2] pixels.
        cutout: Probability that a box of 2 to 20 % of the image is blanked.
        cutmix: Probability that an image gets a box of another, of 10 to 50 % of its area. For
            taps that give maps (N, C, H, W).

    Raises:
        ConfigError: For numbers out of range.
    """

    def __init__(
        self,
        jitter: float = 0.5,
        gray: float = 0.1,
        blur: float = 0.3,
        cutout: float = 0.0,
        cutmix: float = 0.0,
    ) -> None:
        super().__init__()
        numbers = dict(jitter=jitter, gray=gray, blur=blur, cutout=cutout, cutmix=cutmix)
        for name, value in numbers.items():
            check_number(value, name, 0, 1)
        from torchvision.transforms import v2

        changes: list[nn.Module] = []
        if jitter:
            strengths = [jitter] * 3 + [jitter / 2]
            changes.append(v2.RandomApply([v2.ColorJitter(*strengths)], 0.8))
        if gray:
            changes.append(v2.RandomGrayscale(gray))
        if blur:
            changes.append(v2.RandomApply([v2.GaussianBlur(7, (0.1, 2.0))], blur))
        if cutout:
            changes.append(v2.RandomErasing(cutout, scale=(0.02, 0.2), value=0.5))
        self.changes = nn.Sequential(*changes)
        self.cutmix = cutmix

    def forward(self, inputs: Tensor, mean: Tensor, std: Tensor) -> Changed:
        """Change images, each by its own draws from torch's random stream.

        Args:
            inputs: Normalized images (N, 3, H, W).
            mean: Per channel (3, 1, 1), in units of 0 to 255.
            std: The same.
        """
        pixels = ((inputs * std + mean) / 255).clamp(0, 1)
        changed = torch.stack([self.changes(image) for image in pixels])
        images = (changed * 255 - mean) / std
        boxes = self._boxes(images) if self.cutmix and len(images) > 1 else None
        if boxes is None:
            return Changed(images, lambda value: value)
        return Changed(_pasted(images, boxes), lambda value: _moved(value, boxes))

    def _boxes(self, images: Tensor) -> Tensor:
        """Draw where each image is replaced by the next one's: (N, 1, H, W) of 0 and 1."""
        n, _, height, width = images.shape
        boxes = images.new_zeros(n, 1, height, width)
        for box in boxes:
            used, area, aspect, top, left = torch.rand(5).tolist()
            if used >= self.cutmix:
                continue
            area, aspect = 0.1 + 0.4 * area, 2 ** (2 * aspect - 1)
            h = min(round((area * aspect) ** 0.5 * height), height)
            w = min(round((area / aspect) ** 0.5 * width), width)
            y, x = round(top * (height - h)), round(left * (width - w))
            box[:, y : y + h, x : x + w] = 1
        return boxes


def _pasted(maps: Tensor, boxes: Tensor) -> Tensor:
    return torch.where(boxes > 0, maps.roll(-1, 0), maps)


def _moved(value: Any, boxes: Tensor) -> Any:
    if isinstance(value, list):
        return [_moved(item, boxes) for item in value]
    if not isinstance(value, Tensor) or value.dim() != 4:
        shape = tuple(value.shape) if isinstance(value, Tensor) else value
        raise ConfigError(
            f'model.strong_view.cutmix: needs taps that give maps (N, C, H, W), got {shape}'
        )
    return _pasted(value, F.interpolate(boxes, value.shape[-2:], mode='nearest'))
