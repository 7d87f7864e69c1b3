from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class DensePrediction:
    """A dense detector's output at every position of its levels, joined to one grid of P positions.

    Args:
        cls_logits (Tensor): Class logits (N, P, C).
        obj_logits (Tensor, optional): Objectness logits (N, P), None for heads without.
        boxes (Tensor): Decoded boxes (N, P, 4), xyxy in pixels of the network's input.
    """

    cls_logits: Tensor
    obj_logits: Tensor | None
    boxes: Tensor

    def detach(self):
        """Cut out of the graph."""
        objectness = None if self.obj_logits is None else self.obj_logits.detach()
        return replace(
            self,
            cls_logits=self.cls_logits.detach(),
            obj_logits=objectness,
            boxes=self.boxes.detach(),
        )

    @property
    def requires_grad(self):
        """bool: Whether a gradient flows from it."""
        return self.cls_logits.requires_grad

    @property
    def scores(self):
        """Tensor: Best class's probability times objectness (if any), (N, P)."""
        scores = self.cls_logits.float().sigmoid().amax(-1)
        return scores if self.obj_logits is None else scores * self.obj_logits.float().sigmoid()

    def __str__(self):
        n, p, c = self.cls_logits.shape
        return f'(images {n}, positions {p}, classes {c}, objectness {"no" if self.obj_logits is None else "yes"})'
