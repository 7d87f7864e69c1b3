from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor


@dataclass
class DensePrediction:
    """A dense detector's output at every position of its levels, joined to one grid of P positions.

    The one form in which all dense heads are compared. A position is a cell of a level, or one of
    the anchors of a cell; the order is level, row, column, anchor.

    Args:
        cls_logits: Log-odds of each class (N, P, C), without background: the logits of a sigmoid
            head; log p - log(1 - p) of a softmax head.
        obj_logits: Log-odds (N, P) of a factor of the score that all classes share (objectness,
            centerness); None for heads without.
        boxes: Decoded boxes (N, P, 4), xyxy in pixels of the network's input.
    """

    cls_logits: Tensor
    obj_logits: Tensor | None
    boxes: Tensor

    def detach(self) -> DensePrediction:
        """Cut out of the graph."""
        objectness = None if self.obj_logits is None else self.obj_logits.detach()
        return replace(
            self,
            cls_logits=self.cls_logits.detach(),
            obj_logits=objectness,
            boxes=self.boxes.detach(),
        )

    @property
    def requires_grad(self) -> bool:
        """Whether a gradient flows from it."""
        return self.cls_logits.requires_grad

    @property
    def scores(self) -> Tensor:
        """Best class's probability times objectness (if any), (N, P)."""
        scores = self.cls_logits.float().sigmoid().amax(-1)
        return scores if self.obj_logits is None else scores * self.obj_logits.float().sigmoid()

    def __str__(self) -> str:
        n, p, c = self.cls_logits.shape
        objectness = 'no' if self.obj_logits is None else 'yes'
        return f'(images {n}, positions {p}, classes {c}, objectness {objectness})'
