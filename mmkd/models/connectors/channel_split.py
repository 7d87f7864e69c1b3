import torch
from torch import Tensor

from mmkd.models.connectors.base import Connector
from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class ChannelSplit(Connector):
    """Take one part of a map's (or vector's) channels; the link never reads the other.

    `inherit` is what the source guides, `explore` the rest: the two halves of IE-KD (Huang et al.,
    arXiv 2107.00181), in a fixed order or a fixed random permutation, and the guided and the
    self-taught channels of student-centric learning (Wang et al., JISE 36(6), 2020). The
    permutation is a buffer: it is in the checkpoint, and the same on each rank.

    Args:
        in_channels: The target's channels; filled in by the link.
        part: `inherit` (the first `ratio` of the channels, in the order of `mode`) or `explore`
            (the others).
        ratio: Share of the channels that inherit, in (0, 1), rounded to whole channels.
        mode: `natural` (the channels' own order) or `random` (a fixed permutation).
        seed: Seed of the permutation. Default: the link's own seed; set it explicitly if two links
            must use the same split.

    Raises:
        ConfigError: For other values, or where a part would be empty.
    """

    order: Tensor

    def __init__(
        self,
        in_channels: int,
        part: str = 'inherit',
        ratio: float = 0.5,
        mode: str = 'natural',
        seed: int | None = None,
    ) -> None:
        super().__init__()
        self.part = choose(part, ('inherit', 'explore'), 'part')
        choose(mode, ('natural', 'random'), 'mode')
        if not isinstance(ratio, (int, float)) or not 0 < ratio < 1:
            raise ConfigError(f'ratio: expected a number in (0, 1), got {ratio!r}')
        count = round(ratio * in_channels)
        if not 0 < count < in_channels:
            raise ConfigError(f'ratio: {ratio} of {in_channels} channels leaves a part without any')
        self.sizes = dict(inherit=count, explore=in_channels - count)
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        if mode == 'natural':
            order = torch.arange(in_channels)
        else:
            order = torch.randperm(in_channels, generator=generator)
        self.register_buffer('order', order)

    def parts(self, x: Tensor) -> dict[str, Tensor]:
        """Split x (N, C, H, W) or (N, C) into both parts by name."""
        count = self.sizes['inherit']
        return dict(
            inherit=x.index_select(1, self.order[:count]),
            explore=x.index_select(1, self.order[count:]),
        )

    def forward(self, x: Tensor, like: Tensor | None = None) -> Tensor:
        """Take the part of x (N, C, H, W) or (N, C)."""
        return self.parts(x)[self.part]
