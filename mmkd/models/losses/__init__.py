from .base import DistillationLoss
from .channel_correlation import ChannelCorrelation
from .channel_wise import ChannelWise
from .dense_detection import DenseDetectionLoss
from .dkd import DKD
from .feature_mse import FeatureMSE
from .inherit_explore import InheritExploreLoss
from .kl_divergence import KLDivergence
from .pearson_feature import PearsonFeature
from .pseudo_label import PseudoLabel
from .spatial_correlation import SpatialCorrelation

__all__ = [
    'DKD',
    'ChannelCorrelation',
    'ChannelWise',
    'DenseDetectionLoss',
    'DistillationLoss',
    'FeatureMSE',
    'InheritExploreLoss',
    'KLDivergence',
    'PearsonFeature',
    'PseudoLabel',
    'SpatialCorrelation',
]
