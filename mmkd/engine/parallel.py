from typing import Any

from mmengine.model import MMDistributedDataParallel
from torch import Tensor

from mmkd.registry import MODEL_WRAPPERS


@MODEL_WRAPPERS.register_module()
class MemberDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's wrapper, which also trains members one after another (`model.in_turns`).

    Then each member's gradients are averaged after its own backward pass, by
    `MemberOptimWrapper.backward`: torch's wrapper knows one forward and one backward pass a step.
    `tools/train.py` sets it where it is needed.
    """

    def train_step(self, data: Any, optim_wrapper: Any) -> dict[str, Tensor]:
        """Take a training step."""
        if getattr(self.module, 'in_turns', False):
            return self.module.train_step(data, optim_wrapper)
        return super().train_step(data, optim_wrapper)
