"""The one way to a distiller inside its wrappers."""

from typing import Any

from mmengine.model import BaseTTAModel, is_model_wrapper
from torch import nn


def distiller_of(model: nn.Module) -> Any:
    """Return the model inside DDP and test-time augmentation wrappers."""
    inner: Any = model
    while is_model_wrapper(inner) or isinstance(inner, BaseTTAModel):
        inner = inner.module
    return inner
