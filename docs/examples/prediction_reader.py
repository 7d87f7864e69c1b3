"""A prediction reader of one's own: `prediction` taps for a detection head that mmkd does not know.

The reader makes one form (`DensePrediction`) of whatever the head's `forward` returns, so that
heads of different detectors can be compared. It is registered for the head's class and serves its
subclasses; where several fit, the nearest class wins.
"""

import torch
from mmdet.models.dense_heads import YOLOXHead
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS as MMENGINE_MODELS
from mmengine.structures import InstanceData
from torch import Tensor

from mmkd.tasks.detection import DensePrediction, prediction_reader
from mmkd.tasks.detection.readers import flatten_levels


@MMDET_MODELS.register_module()
class UncertainYOLOXHead(YOLOXHead):
    """A YOLOX head whose objectness logits come with an estimate of their own uncertainty.

    It stands for a head of your own: what its `forward` returns is unlike any other head's.
    """

    def forward(self, x: tuple[Tensor, ...]) -> tuple[list[Tensor], ...]:
        """Return classes, boxes, objectness and uncertainty of each level."""
        classes, boxes, objectness = super().forward(x)
        return classes, boxes, objectness, [o.detach().abs().neg().exp() for o in objectness]

    def loss_by_feat(self, classes, boxes, objectness, uncertainty, *args, **kwargs) -> dict:
        """Compute YOLOX's losses."""
        return super().loss_by_feat(classes, boxes, objectness, *args, **kwargs)

    def predict_by_feat(self, classes, boxes, objectness, uncertainty, *args, **kwargs) -> list:
        """Predict as YOLOX does."""
        return super().predict_by_feat(classes, boxes, objectness, *args, **kwargs)


@prediction_reader.register(UncertainYOLOXHead)
def read_uncertain_yolox(head: UncertainYOLOXHead, output: tuple) -> DensePrediction:
    """Read classes, objectness and boxes; the log-odds shrink where the head is uncertain."""
    classes, boxes, objectness, uncertainty = output
    priors = head.prior_generator.grid_priors(
        [level.shape[-2:] for level in classes], device=classes[0].device, with_stride=True
    )
    logits = flatten_levels(objectness, 1) * (1 - 0.5 * flatten_levels(uncertainty, 1))
    return DensePrediction(
        cls_logits=flatten_levels(classes, head.cls_out_channels),
        obj_logits=logits.squeeze(-1),
        boxes=head._bbox_decode(torch.cat(priors), flatten_levels(boxes, 4).float()),
    )


def batch(size: int = 64) -> dict:
    """Return two random images with a box each, as a loader of MMDetection's gives them."""
    images, samples = [], []
    for index in range(2):
        images.append(torch.randint(0, 256, (3, size, size), dtype=torch.uint8))
        shape = dict(img_shape=(size, size), ori_shape=(size, size), scale_factor=(1.0, 1.0))
        sample = DetDataSample(metainfo=dict(img_id=index, **shape))
        sample.gt_instances = InstanceData(
            bboxes=torch.tensor([[8.0, 8.0, 40.0, 48.0]]), labels=torch.zeros(1, dtype=torch.long)
        )
        sample.ignored_instances = InstanceData(
            bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long)
        )
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


if __name__ == '__main__':
    narrow = {
        'backbone.widen_factor': 0.125,
        'neck.in_channels': [32, 64, 128],
        'neck.out_channels': 32,
        'bbox_head.in_channels': 32,
        'bbox_head.feat_channels': 32,
        'bbox_head.num_classes': 1,
    }
    yolox = 'mmdet::yolox/yolox_tiny_8xb8-300e_coco.py'
    own = dict(narrow, **{'bbox_head.type': 'UncertainYOLOXHead'})
    model = MMENGINE_MODELS.build(
        dict(
            type='mmkd.OnlineDistiller',
            members=dict(
                student1=dict(config=yolox, options=own, seed=1),
                student2=dict(config=yolox, options=narrow, seed=2),
            ),
            sharing='ml_p',
            data_preprocessor=dict(pad_size_divisor=32),
        )
    )
    data = model.data_preprocessor(batch(), True)
    terms = model.train()(**data, mode='loss')
    print({name: round(float(value), 4) for name, value in terms.items() if '[' in name})
