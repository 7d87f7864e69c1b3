import numpy as np
import torch
from ensemble_boxes import nms, weighted_boxes_fusion
from mmengine.structures import InstanceData
from torch import nn

from mmkd.registry import MODELS
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError


@MODELS.register_module()
class DetectionEnsemble(nn.Module):
    """Fuse several detectors' boxes of one image by weighted boxes fusion or NMS (the library ensemble-boxes).

    Weighted boxes fusion: Solovyev et al., "Weighted boxes fusion" (Image and Vision Computing, 2021). mmkd's choice of
    IoU 0.55 is that paper's default.

    Args:
        fusion (str): `wbf` or `nms`. Default: `wbf`.
        iou_thr (float): Boxes of one class that overlap more are fused. Default: 0.55.
        conf_type (str): Score of a fused box in weighted boxes fusion: `max` or `avg` of its boxes' scores. Default: `max`,
            mmkd's choice: a member's own NMS leaves low-scored duplicates of a box, which drag the average down.
        score_thr (float): Boxes with a lower score are left out first. Default: 0.001.
        max_per_img (int): At most so many boxes an image are kept, best first; -1: all. Default: 100.
    """

    def __init__(
        self, fusion='wbf', iou_thr=0.55, conf_type='max', score_thr=0.001, max_per_img=100
    ):
        super().__init__()
        self.fusion = choose(fusion, ('wbf', 'nms'), 'model.ensemble.fusion')
        self.conf_type = choose(conf_type, ('max', 'avg'), 'model.ensemble.conf_type')
        for name, value in (('iou_thr', iou_thr), ('score_thr', score_thr)):
            if not isinstance(value, (int, float)) or not 0 <= value < 1:
                raise ConfigError(f'{name}: expected a value in [0, 1), got {value}')
        if not isinstance(max_per_img, int) or (max_per_img < 1 and max_per_img != -1):
            raise ConfigError(
                f'max_per_img: expected a number of boxes, or -1 for all, got {max_per_img!r}'
            )
        self.iou_thr, self.score_thr, self.max_per_img = iou_thr, score_thr, max_per_img

    def forward(self, predictions, size):
        """Fuse.

        Args:
            predictions (list[InstanceData]): One a member: bboxes (M, 4) xyxy in pixels, scores (M,), labels (M,).
            size (tuple[int, int]): Height and width of the image in the boxes' pixels.

        Returns:
            InstanceData: Fused bboxes, scores and labels, best first. With `avg`, WBF multiplies a score by the share of
            members that saw the box.
        """
        scale = np.array([size[1], size[0], size[1], size[0]], dtype=np.float32)
        boxes = [(p.bboxes.detach().cpu().float().numpy() / scale).clip(0, 1) for p in predictions]
        # The library drops degenerate boxes with a warning each.
        keep = [
            (b[:, 2] > b[:, 0])
            & (b[:, 3] > b[:, 1])
            & (p.scores.detach().cpu().float().numpy() > self.score_thr)
            for b, p in zip(boxes, predictions)
        ]
        boxes = [b[k] for b, k in zip(boxes, keep)]
        scores = [p.scores.detach().cpu().float().numpy()[k] for p, k in zip(predictions, keep)]
        labels = [p.labels.detach().cpu().numpy()[k] for p, k in zip(predictions, keep)]
        first = predictions[0].bboxes
        if not sum(map(len, boxes)):
            return InstanceData(
                bboxes=first.new_zeros((0, 4)),
                scores=first.new_zeros((0,)),
                labels=first.new_zeros((0,), dtype=torch.long),
            )
        fuse = weighted_boxes_fusion if self.fusion == 'wbf' else nms
        options = (
            dict(skip_box_thr=self.score_thr, conf_type=self.conf_type)
            if self.fusion == 'wbf'
            else {}
        )
        boxes, scores, labels = fuse(boxes, scores, labels, iou_thr=self.iou_thr, **options)
        order = np.argsort(-scores, kind='stable')[
            : self.max_per_img if self.max_per_img > 0 else None
        ]
        return InstanceData(
            bboxes=first.new_tensor(boxes[order] * scale),
            scores=first.new_tensor(scores[order]),
            labels=torch.as_tensor(labels[order].astype(np.int64), device=first.device),
        )

    def fuse_samples(self, samples):
        """Fuse the members' predictions of one image.

        Args:
            samples (list[DetDataSample]): One a member, each with `pred_instances`.

        Returns:
            DetDataSample: The first sample's ground truth and metainfo with the fused `pred_instances`.
        """
        fused = samples[0].clone()
        fused.pred_instances = self([s.pred_instances for s in samples], samples[0].ori_shape[:2])
        return fused
