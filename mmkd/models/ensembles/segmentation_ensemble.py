import torch
from mmengine.structures import PixelData
from torch import nn

from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class SegmentationEnsemble(nn.Module):
    """Mean of segmenters' probabilities at each pixel, or of their logits.

    Args:
        fusion (str): `probability` or `logits`. Default: `probability`.
        threshold (float): A pixel of a network with one output channel is foreground above it. Default: 0.3, as in mmseg's
            heads; the distiller fills in that of the first member it fuses.
    """

    def __init__(self, fusion='probability', threshold=None):
        super().__init__()
        self.fusion = choose(fusion, ('probability', 'logits'), 'fusion')
        self.threshold = 0.3 if threshold is None else threshold

    def forward(self, scores):
        """Fuse one image's scores.

        Args:
            scores (list[Tensor]): One a member, as mmseg's `predict` leaves them: logits (C, H, W), or the foreground's
                probability (1, H, W) of a network with one output channel.

        Returns:
            Tensor: The like: log-probabilities (C, H, W) or a probability (1, H, W).

        Raises:
            ConfigError: If the members differ in channels.
        """
        channels = {score.shape[0] for score in scores}
        if len(channels) > 1:
            raise ConfigError(
                f'model.ensemble: members with different numbers of output channels: {sorted(channels)}'
            )
        stacked = torch.stack([score.float() for score in scores])
        if channels == {1}:
            return (
                stacked.mean(0)
                if self.fusion == 'probability'
                else stacked.logit(eps=1e-6).mean(0).sigmoid()
            )
        if self.fusion == 'logits':
            return stacked.mean(0).log_softmax(0)
        return stacked.log_softmax(1).logsumexp(0) - torch.tensor(float(len(scores))).log()

    def fuse_samples(self, samples):
        """Fuse the members' predictions of one image.

        Args:
            samples (list[SegDataSample]): One a member, each with `seg_logits`.

        Returns:
            SegDataSample: The first one's ground truth and metainfo with the fused `seg_logits` and `pred_sem_seg`.
        """
        scores = self([sample.seg_logits.data for sample in samples])
        classes = (
            (scores > self.threshold).to(scores)
            if scores.shape[0] == 1
            else scores.argmax(0, keepdim=True)
        )
        fused = samples[0].clone()
        fused.set_data(
            dict(seg_logits=PixelData(data=scores), pred_sem_seg=PixelData(data=classes))
        )
        return fused
