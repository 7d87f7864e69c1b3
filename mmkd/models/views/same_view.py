from torch import Tensor, nn

from mmkd.registry import MODELS

from .strong_view import Changed


@MODELS.register_module()
class SameView(nn.Module):
    """In place of a strong view: targets see unlabeled images as their sources do.

    For teachers that are better than their students: "consistent teaching" shows both the same
    image (Beyer et al., arXiv 2106.05237). Links from oneself, averages and peers are made for the
    strong view. Augmentation of the images then belongs into the pipeline of
    `unlabeled_dataloader`.
    """

    def forward(self, inputs: Tensor, mean: Tensor, std: Tensor) -> Changed:
        """Return the images (N, 3, H, W) as they are."""
        return Changed(inputs, lambda value: value)
