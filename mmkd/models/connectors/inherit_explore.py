from torch import Tensor, nn

from mmkd.models.connectors.base import Connector
from mmkd.models.connectors.channel_split import ChannelSplit
from mmkd.models.connectors.factor_encoder import FactorEncoder
from mmkd.registry import MODELS


@MODELS.register_module()
class InheritExplore(Connector):
    """Split the target's map by channel and encode both parts to factors, for `InheritExploreLoss`.

    The student's side of IE-KD (Huang et al., arXiv 2107.00181): each part has an encoder of its
    own, trained with the student.

    Args:
        in_channels: The target's channels; filled in by the link.
        out_channels: k, the channels of the source's factor; filled in by the link.
        ratio: Share of the channels that inherit, see `ChannelSplit`.
        mode: `natural` or `random`, see `ChannelSplit`.

    Raises:
        ConfigError: As `ChannelSplit`, and for vectors.
    """

    def __init__(
        self, in_channels: int, out_channels: int, ratio: float = 0.5, mode: str = 'natural'
    ) -> None:
        super().__init__()
        self.split = ChannelSplit(in_channels, ratio=ratio, mode=mode)
        self.encoders = nn.ModuleDict(
            {part: FactorEncoder(size, out_channels) for part, size in self.split.sizes.items()}
        )

    def forward(self, x: Tensor, like: Tensor | None = None) -> dict[str, Tensor]:
        """Encode both parts of x (N, C, H, W).

        Returns:
            The factors (N, k, H, W), `inherit` and `explore`.
        """
        return {name: self.encoders[name](part) for name, part in self.split.parts(x).items()}
