from .adversarial_feature import AdversarialFeature
from .attention_transfer import AttentionTransfer
from .base import DistillationLoss
from .channel_correlation import ChannelCorrelation
from .channel_wise import ChannelWise
from .dense_detection import DenseDetectionLoss
from .detection import DetectionLoss
from .dist import DIST
from .dkd import DKD
from .feature_mse import FeatureMSE
from .fit_nets import FitNets
from .focal_global import FocalGlobal
from .hierarchical_context import HierarchicalContext
from .inherit_explore import InheritExploreLoss
from .kl_divergence import KLDivergence
from .masked_generative import MaskedGenerative
from .neuron_selectivity import NeuronSelectivity
from .pearson_feature import PearsonFeature
from .pseudo_label import PseudoLabel
from .relational_kd import RelationalKD
from .similarity_preserving import SimilarityPreserving
from .spatial_correlation import SpatialCorrelation

__all__ = [
    'DIST',
    'DKD',
    'AdversarialFeature',
    'AttentionTransfer',
    'ChannelCorrelation',
    'ChannelWise',
    'DenseDetectionLoss',
    'DetectionLoss',
    'DistillationLoss',
    'FeatureMSE',
    'FitNets',
    'FocalGlobal',
    'HierarchicalContext',
    'InheritExploreLoss',
    'KLDivergence',
    'MaskedGenerative',
    'NeuronSelectivity',
    'PearsonFeature',
    'PseudoLabel',
    'RelationalKD',
    'SimilarityPreserving',
    'SpatialCorrelation',
]
