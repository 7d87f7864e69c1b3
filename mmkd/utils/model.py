from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def distiller_of(model: nn.Module) -> Any:
    """Return what DDP and test-time augmentation wrap."""
    found: Any = model
    while is_model_wrapper(found) or isinstance(found, BaseTTAModel):
        found = found.module
    return found
