from mmkd.utils.packages import installed

from .channel_correlation import ChannelCorrelation
from .feature_mse import FeatureMSE
from .inherit_explore import InheritExploreLoss
from .kl_divergence import KLDivergence
from .spatial_correlation import SpatialCorrelation

if installed('mmdet'):
    from .dense_detection import DenseDetectionLoss  # noqa: F401

__all__ = [
    'ChannelCorrelation',
    'FeatureMSE',
    'InheritExploreLoss',
    'KLDivergence',
    'SpatialCorrelation',
]
