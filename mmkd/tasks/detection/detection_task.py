import torch
from mmdet.models.detectors import SingleStageDetector
from mmdet.models.detectors.base import BaseDetector
from mmdet.models.utils import unpack_gt_instances
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData

from mmkd.registry import MODELS, TASKS
from mmkd.utils.checks import build_checked
from mmkd.utils.errors import ConfigError

from ..base import Task
from .dense_heads import reader_of

DRAWN_SCORE = 0.3  # boxes with a lower score are not drawn


def _scaled(boxes, size, sample):
    """Bring boxes in pixels of the file to an image drawn at `size`."""
    height, width = sample.ori_shape[:2]
    limits = boxes.new_tensor([size[1], size[0]] * 2)
    return (boxes * limits / boxes.new_tensor([width, height] * 2)).clamp(min=0).minimum(limits)


def _clipped(boxes, region):
    """Cut boxes (M, 4) at the region's border; both x1, y1, x2, y2 in pixels."""
    return torch.cat([boxes[:, :2].maximum(region[:2]), boxes[:, 2:].minimum(region[2:])], dim=1)


def _share_inside(boxes, region):
    """Return the share (M, ) of each box's area inside the region."""
    inside = (_clipped(boxes, region)[:, 2:] - _clipped(boxes, region)[:, :2]).clamp(min=0).prod(1)
    return inside / (boxes[:, 2:] - boxes[:, :2]).prod(1).clamp(min=1e-6)


@TASKS.register_module('detection')
class DetectionTask(Task):
    """Detection by MMDetection's networks.

    Taps: `prediction` is the dense head's output on the common grid of all levels (`DensePrediction`: class logits,
    objectness where the head has it, boxes decoded to pixels); `feature` the levels of the neck (of the backbone where
    there is no neck).
    """

    mixes_features = False
    truth_argument = 'batch_gt_instances'

    @classmethod
    def fits(cls, network):
        return isinstance(network, BaseDetector)

    def resolve_tap(self, name, network, key):
        if name == 'feature':
            return ('neck' if network.with_neck else 'backbone'), None
        head = getattr(network, 'bbox_head', None)
        if head is None or hasattr(network, 'rpn_head'):
            raise ConfigError(
                f"{key}: {type(network).__name__} has no single dense head for the 'prediction' tap: it has one "
                'for one-stage detectors (YOLOX, RTMDet)'
            )
        return 'bbox_head', reader_of(head, key)

    def default_loss(self, tap):
        return dict(type='DenseDetectionLoss') if tap == 'prediction' else super().default_loss(tap)

    def run_for_taps(self, network, inputs, data_samples, paths):
        if all(path.split('.')[0] in ('backbone', 'neck') for path in paths):
            network.extract_feat(inputs)
        elif not hasattr(network, 'roi_head'):
            network.bbox_head(
                network.extract_feat(inputs)
            )  # `_forward` calls `bbox_head.forward`, which no hook sees
        else:
            network(inputs, data_samples, mode='tensor')

    def classes_of(self, sample):
        return frozenset(sample.gt_instances.labels.tolist())

    def same_class(self, one, other):
        return one == other or bool(one & other)

    def paste(self, sample, other, box):
        # A box stays if at least half of it is seen (mmkd's choice); a pasted one ends at the region's border.
        top, bottom, left, right = box
        pasted = sample.clone()
        for name in ('gt_instances', 'ignored_instances'):
            if name not in sample or name not in other:
                continue
            own, theirs = sample.get(name), other.get(name)
            if (set(own.keys()) | set(theirs.keys())) - {'bboxes', 'labels'}:
                raise ConfigError(
                    f'model.mixer: local mixing cuts boxes and labels only, got {name} with {list(own.keys())}'
                )
            region = own.bboxes.new_tensor([left, top, right, bottom])
            own = own[_share_inside(own.bboxes, region) <= 0.5]
            theirs = theirs[_share_inside(theirs.bboxes, region) >= 0.5]
            cut = InstanceData(labels=theirs.labels, bboxes=_clipped(theirs.bboxes, region))
            pasted.set_data(
                {
                    name: InstanceData(
                        labels=torch.cat([own.labels, cut.labels]),
                        bboxes=torch.cat([own.bboxes, cut.bboxes]),
                    )
                }
            )
        return pasted

    def loss_methods(self, network):
        if not isinstance(network, SingleStageDetector):
            raise ConfigError(
                f'global mixing is for one-stage detectors, got {type(network).__name__}: it assigns ground '
                'truth before its loss; set global_prob=0'
            )
        return {'bbox_head': 'loss_by_feat'}

    def truth_arguments(self, data_samples):
        instances, ignored, _ = unpack_gt_instances(data_samples)
        return dict(batch_gt_instances=instances, batch_gt_instances_ignore=ignored)

    def truth_of(self, dataset, index, sample):
        # The file's own boxes: those of a sample are resized or not, as its pipeline has it.
        boxes = [instance['bbox'] for instance in dataset.get_data_info(index)['instances']]
        truth = sample.new()
        truth.pred_instances = InstanceData(bboxes=torch.tensor(boxes).reshape(-1, 4))
        return truth

    def draw(self, canvas, size, sample, colour, metainfo):
        found = sample.pred_instances
        if 'scores' in found:
            found = found[found.scores >= DRAWN_SCORE]
        if not len(found):
            return
        boxes = _scaled(found.bboxes, size, sample)
        canvas.draw_bboxes(boxes, edge_colors=colour)
        if 'scores' in found:
            canvas.draw_texts(
                [f'{score:.2f}' for score in found.scores.tolist()],
                boxes[:, :2],
                colors=colour,
                font_sizes=9,
                bboxes=dict(facecolor='black', alpha=0.6, edgecolor='none', pad=0.8),
            )

    def draw_disagreement(self, canvas, size, samples, colours, metainfo):
        # Boxes of a member that no box of another member overlaps by half.
        found = {
            name: s.pred_instances[s.pred_instances.scores >= DRAWN_SCORE].bboxes
            for name, s in samples.items()
        }
        for (name, boxes), colour in zip(found.items(), colours):
            alone = torch.zeros(len(boxes), dtype=torch.bool)
            for other, theirs in found.items():
                if other != name:
                    best = (
                        bbox_overlaps(boxes, theirs).amax(1)
                        if len(theirs)
                        else torch.zeros(len(boxes))
                    )
                    alone |= best < 0.5
            if alone.any():
                canvas.draw_bboxes(_scaled(boxes[alone], size, samples[name]), edge_colors=colour)

    def build_ensemble(self, members, **cfg):
        heads = {name: getattr(self.networks[name], 'bbox_head', None) for name in members}
        counts = {
            name: head.num_classes for name, head in heads.items() if hasattr(head, 'num_classes')
        }
        self.check_equal(counts, 'classes', 'model.ensemble.members')
        return build_checked(MODELS, dict(type='DetectionEnsemble', **cfg), 'model.ensemble')
