from mmkd.models.losses.feature_mse import FeatureMSE
from mmkd.registry import MODELS


@MODELS.register_module()
class FitNets(FeatureMSE):
    """Plain mean squared error of features: the hint of FitNets.

    Romero et al., "FitNets: Hints for Thin Deep Nets" (arXiv 1412.6550), eq. 3, averaged over all
    numbers: `FeatureMSE` with `normalize='none'`. Its value has the square of the features' scale,
    so the weight has to be found for each network; `PearsonFeature` or `FeatureMSE` avoid that.
    """

    def __init__(self) -> None:
        super().__init__(normalize='none')
