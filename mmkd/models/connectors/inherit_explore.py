from torch import nn

from mmkd.registry import MODELS

from .channel_split import ChannelSplit
from .factor_encoder import FactorEncoder


@MODELS.register_module()
class InheritExplore(nn.Module):
    """Split the target's map by channel and encode both parts to factors, for `InheritExploreLoss`.

    The student's side of IE-KD (Huang et al., arXiv 2107.00181): each part has an encoder of its own, trained with the student.

    Args:
        in_channels (int): The target's channels; filled in by the link.
        out_channels (int): k, the channels of the source's factor; filled in by the link.
        ratio (float): Share of the channels that inherit, see `ChannelSplit`. Default: 0.5.
        mode (str): `natural` or `random`, see `ChannelSplit`. Default: `natural`.

    Raises:
        ValueError: As `ChannelSplit`, and for vectors.
    """

    needs_channels = True

    def __init__(self, in_channels, out_channels, ratio=0.5, mode='natural'):
        super().__init__()
        self.split = ChannelSplit(in_channels, ratio=ratio, mode=mode)
        self.encoders = nn.ModuleDict(
            {part: FactorEncoder(size, out_channels) for part, size in self.split.sizes.items()}
        )

    def forward(self, x, like=None):
        """Encode both parts of x (N, C, H, W): dict of factors (N, k, H, W), `inherit` and `explore`."""
        return {name: self.encoders[name](part) for name, part in self.split.parts(x).items()}
