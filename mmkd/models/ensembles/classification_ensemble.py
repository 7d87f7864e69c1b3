import torch
from torch import nn

from mmkd.registry import MODELS
from mmkd.utils.checks import choose


@MODELS.register_module()
class ClassificationEnsemble(nn.Module):
    """Mean of classifiers' probabilities, or of their logits.

    Args:
        multi_label (bool): Whether classes are independent labels; the distiller fills it in. Default: False.
        fusion (str): `probability` or `logits` (mean of log-probabilities, which differs from that of logits by a constant
            only). Default: `probability`.
        thr, topk (float, int, optional): How labels are chosen where there may be several: above `thr`, else the best
            `topk`; the distiller fills in that of the first member it fuses.
    """

    def __init__(self, multi_label=False, fusion='probability', thr=None, topk=None):
        super().__init__()
        self.multi_label, self.fusion = (
            multi_label,
            choose(fusion, ('probability', 'logits'), 'fusion'),
        )
        self.thr, self.topk = (0.5 if thr is None and topk is None else thr), topk

    def forward(self, scores):
        """Fuse one image's probabilities (list of Tensors (classes,), one a member) to probabilities (classes,)."""
        stacked = torch.stack([score.float() for score in scores])
        if self.fusion == 'probability':
            return stacked.mean(0)
        if self.multi_label:
            return stacked.logit(eps=1e-6).mean(0).sigmoid()
        return stacked.clamp(min=torch.finfo(torch.float32).tiny).log().mean(0).softmax(0)

    def fuse_samples(self, samples):
        """Fuse the members' predictions of one image.

        Args:
            samples (list[DataSample]): One a member, each with `pred_score`.

        Returns:
            DataSample: The first one's ground truth and metainfo with the fused `pred_score` and `pred_label`.
        """
        score = self([sample.pred_score for sample in samples])
        if not self.multi_label:
            label = score.argmax(0, keepdim=True)
        elif self.thr is not None:
            label = torch.where(score >= self.thr)[0]
        else:
            label = score.topk(self.topk)[1]
        return samples[0].clone().set_pred_score(score).set_pred_label(label)
