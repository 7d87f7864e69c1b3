"""The one way to a distiller inside its wrappers."""

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def distiller_of(model: nn.Module) -> nn.Module:
    """Return the model inside DDP and test-time augmentation wrappers."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model
