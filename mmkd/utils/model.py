from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def distiller_of(model: nn.Module) -> nn.Module:
    """Return what DDP and test-time augmentation wrap."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
