from .affine_free_norm import AffineFreeNorm
from .base import Connector, WithTerms
from .channel_split import ChannelSplit
from .conv_connector import ConvConnector
from .factor_auto_encoder import FactorAutoEncoder
from .inherit_explore import InheritExplore
from .resize_connector import ResizeConnector

__all__ = [
    'AffineFreeNorm',
    'ChannelSplit',
    'Connector',
    'ConvConnector',
    'FactorAutoEncoder',
    'InheritExplore',
    'ResizeConnector',
    'WithTerms',
]
