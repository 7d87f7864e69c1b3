from .dense_detection import DenseDetectionLoss
from .feature_mse import FeatureMSE
from .kl_divergence import KLDivergence

__all__ = ['DenseDetectionLoss', 'FeatureMSE', 'KLDivergence']
