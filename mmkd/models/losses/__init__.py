from mmkd.utils.packages import installed

from .feature_mse import FeatureMSE
from .kl_divergence import KLDivergence

if installed('mmdet'):
    from .dense_detection import DenseDetectionLoss  # noqa: F401

__all__ = ['FeatureMSE', 'KLDivergence']
