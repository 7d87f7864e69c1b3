"""Steps of small distillers on this rank's share of a batch; rank 0 saves what came of it.

    torchrun --nproc_per_node=2 tests/distributed_worker.py OUT.pth CASE...

Norms are group norms, connectors' too: a batch norm in training mode sees its own rank's images
(SyncBN, on GPUs, sees all).
"""

import copy
import itertools
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from mmengine.evaluator import Evaluator
from mmengine.model import MMDistributedDataParallel
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData

import mmkd.models.weights.base
import mmkd.utils.distributed

sys.path.insert(0, str(Path(__file__).parent))
import conftest as toolkit  # noqa: E402

from mmkd.engine.parallel import MemberDistributedDataParallel  # noqa: E402

GN = dict(type='GN', num_groups=2, requires_grad=True)
CONNECTOR = dict(type='ConvConnector', norm_cfg=GN)
RAMP = dict(type='Until', end=0.6)  # the links fall silent before the last step
# Each process standardizes its own batch, as batch norm does: no step of the joined batch.
PLAIN = dict(feature=dict(type='FeatureMSE'), feature_weight=1.0)
STEPS, BATCH = 3, 8
scopes = itertools.count()


def detection(sharing):
    def member(options, seed):
        norms = {
            f'{place}.norm_cfg': dict(GN, _delete_=True)
            for place in ('backbone', 'neck', 'bbox_head')
        }
        return toolkit.yolox(options={**options, **norms, 'test_cfg.score_thr': 0.0}, seed=seed)

    return dict(
        members=dict(
            teacher=member(toolkit.WIDER, 10),
            student1=member(toolkit.NARROW, 1),
            student2=member(toolkit.NARROW, 2),
        ),
        sharing=dict(type=sharing, connector=CONNECTOR, schedule=RAMP, **PLAIN),
        data_preprocessor=dict(toolkit.PLAIN),
    )


def segmentation(sharing):
    def member(width, seed):
        options = {
            'data_preprocessor': seg_preprocessor(),
            'backbone.base_channels': width,
            'backbone.norm_cfg': GN,
            'backbone.num_stages': 3,
            'backbone.strides': (2, 1, 1),
            'backbone.enc_num_convs': (1, 1, 1),
            'backbone.dec_num_convs': (1, 1),
            'backbone.downsamples': (True, True),
            'backbone.enc_dilations': (1, 1, 1),
            'backbone.dec_dilations': (1, 1),
            'decode_head.norm_cfg': GN,
            'decode_head.in_index': 2,
            'decode_head.in_channels': width,
            'decode_head.channels': width,
            'decode_head.num_classes': 2,
            'decode_head.dropout_ratio': 0.0,
            'auxiliary_head': None,
            'test_cfg.mode': 'whole',
        }
        return dict(
            config='mmseg::unet/unet-s5-d16_fcn_4xb4-40k_drive-64x64.py', options=options, seed=seed
        )

    return dict(
        members=dict(teacher=member(8, 10), student1=member(4, 1), student2=member(4, 2)),
        sharing=dict(type=sharing, connector=CONNECTOR, schedule=RAMP, **PLAIN),
        data_preprocessor=seg_preprocessor(),
    )


def seg_preprocessor():
    return dict(
        type='SegDataPreProcessor', _scope_='mmseg', size=(64, 64), mean=[127.0] * 3, std=[60.0] * 3
    )


def classification(sharing):
    def member(width, seed):
        options = {
            'data_preprocessor': cls_preprocessor(),
            'backbone.base_channels': width,
            'backbone.stem_channels': width,
            'backbone.norm_cfg': GN,
            'head.in_channels': 8 * width,
            'head.num_classes': 3,
            'head.topk': (1,),
        }
        return dict(
            config='mmpretrain::resnet/resnet18_8xb16_cifar10.py', options=options, seed=seed
        )

    return dict(
        members=dict(teacher=member(8, 10), student1=member(4, 1), student2=member(4, 2)),
        sharing=dict(type=sharing, connector=CONNECTOR, schedule=RAMP, **PLAIN),
        data_preprocessor=cls_preprocessor(),
    )


def cls_preprocessor():
    return dict(type='ClsDataPreprocessor', _scope_='mmpretrain', mean=[127.0] * 3, std=[60.0] * 3)


def detection_batch(n, seed):
    batch = toolkit.make_batch(n, seed=seed)
    for sample in batch['data_samples']:
        boxes = sample.gt_instances.bboxes.tolist()
        sample.set_metainfo(
            dict(instances=[dict(bbox=box, bbox_label=0, ignore_flag=0) for box in boxes])
        )
    return batch


def segmentation_batch(n, seed):
    """Squares on noise; images ignore other shares of their pixels, one nearly all."""
    from mmseg.structures import SegDataSample

    generator = torch.Generator().manual_seed(seed)
    batch = dict(inputs=[], data_samples=[])
    for i in range(n):
        labels = torch.zeros(1, 64, 64, dtype=torch.long)
        labels[:, 8 + i : 40, 10 : 50 - i] = 1
        image = torch.randint(0, 128, (3, 64, 64), generator=generator) + 100 * labels
        labels[:, : (0, 10, 30, 60, 0, 0, 20, 5)[i % 8]] = 255
        sample = SegDataSample(
            metainfo=dict(
                img_shape=(64, 64), ori_shape=(64, 64), pad_shape=(64, 64), img_path=f'{i}.png'
            )
        )
        sample.gt_sem_seg = PixelData(data=labels)
        batch['inputs'].append(image.to(torch.uint8))
        batch['data_samples'].append(sample)
    return batch


def classification_batch(n, seed):
    from mmpretrain.structures import DataSample

    generator = torch.Generator().manual_seed(seed)
    labels = [i % 3 for i in range(n)]
    images = [
        (torch.randint(0, 100, (3, 32, 32), generator=generator) + 70 * label).to(torch.uint8)
        for label in labels
    ]
    samples = [
        DataSample(metainfo=dict(img_shape=(32, 32), ori_shape=(32, 32))).set_gt_label(label)
        for label in labels
    ]
    return dict(inputs=images, data_samples=samples)


# task: config, batches, metric, the metric's settings
TASKS = {
    'mmdet': (detection, detection_batch, dict(type='CocoMetric', metric='bbox')),
    'mmseg': (segmentation, segmentation_batch, dict(type='IoUMetric', iou_metrics=['mDice'])),
    'mmpretrain': (classification, classification_batch, dict(type='Accuracy', topk=(1,))),
}
# name: toolbox, sharing, micro-batches a step, bf16
CASES = {
    'detection kdml_p': ('mmdet', 'kdml_p', 1, False),
    'detection kdml_mixed_full': ('mmdet', 'kdml_mixed_full', 1, False),
    'segmentation kdml_mixed_full': ('mmseg', 'kdml_mixed_full', 1, False),
    'classification kdml_mixed_full': ('mmpretrain', 'kdml_mixed_full', 1, False),
    'classification, 2 accumulated': ('mmpretrain', 'kdml_p', 2, False),
    'classification, DOT, 2 accumulated': ('mmpretrain', 'kdml_f', 2, False),
    'classification, in turns': ('mmpretrain', 'kdml_mixed_full', 2, False),
    'classification, a link ends early': ('mmpretrain', 'kdml_mixed_full', 1, False),
    'classification, bf16': ('mmpretrain', 'kdml_mixed_full', 1, True),
    'segmentation, unlabeled': ('mmseg', 'cps', 1, False),
    'segmentation, shares': ('mmseg', 'kdml_mixed_full', 1, False),
}
# What draws (jitter, blur) would draw anew for the images of each process.
SAME_VIEW = dict(type='StrongView', jitter=0, gray=0, blur=0)


def part(batch, index, parts):
    """The share `index` of `parts` of a batch, in equal, contiguous pieces."""
    size = len(batch['inputs']) // parts
    return {
        key: part(value, index, parts)
        if key == 'unlabeled'
        else value[index * size : (index + 1) * size]
        for key, value in batch.items()
    }


class Counter:
    """Counts the all_reduces of mmkd's own losses and of what links measure."""

    def __init__(self):
        self.calls, self.function = 0, mmkd.utils.distributed.all_reduce

    def __call__(self, *args):
        self.calls += 1
        return self.function(*args)


def build(case):
    """The distiller of a case; its default scope is the case's toolbox."""
    toolbox, sharing, *_ = CASES[case]
    DefaultScope.get_instance(f'{case}-{next(scopes)}', scope_name=toolbox)
    torch.manual_seed(0)
    cfg = TASKS[toolbox][0](sharing)
    if 'unlabeled' in case:
        # Few positions are confident, other shares of them on each rank.
        loss = dict(type='PseudoLabel', mode='soft', threshold=0.55, normalize='confident')
        cfg['sharing']['prediction'], cfg['strong_view'] = loss, SAME_VIEW
    if 'ends early' in case:
        end = dict(type='Until', end=0.3)
        early = dict(tap='backbone.layer4', loss='FeatureMSE', connector=CONNECTOR, schedule=end)
        cfg['links'] = [dict(early, source='teacher', target='student1', name='early')]
    if 'shares' in case:
        share = dict(type='GradientShare', share=0.3, interval=1)
        cfg['sharing'].update(weight=share, guard='log')
        cfg['max_share'] = 0.4
    return toolkit.make_distiller(**cfg, in_turns='in turns' in case)


def run(case, rank=0, world=1):
    """Train STEPS steps on this rank's share of batches of BATCH images; evaluate 8 images.

    Returns:
        dict: `start` and `weights` (state dicts), `losses` (each step's, by member, over all
            ranks), `metrics`, `reduces` (each step's all_reduces of the links).
    """
    toolbox, _, accumulate, bf16 = CASES[case]
    counter = Counter()
    places = mmkd.utils.distributed, mmkd.models.weights.base
    for place in places:
        place.all_reduce = counter
    accumulate = accumulate if world > 1 else 1  # one process: the big batch at once
    make_batch = TASKS[toolbox][1]
    model = build(case)
    start = copy.deepcopy(model.state_dict())
    wrapper = MemberDistributedDataParallel if model.in_turns else MMDistributedDataParallel
    wrapped = wrapper(model, broadcast_buffers=False) if world > 1 else model
    optimizer = dict(type='SGD', lr=0.01)
    if 'DOT' in case:
        optimizer = dict(type='mmkd.DistillationOrientedSGD', lr=0.01)
    options = dict(type='AmpOptimWrapper', dtype='bfloat16') if bf16 else {}
    wrapper = toolkit.optim_wrapper(
        wrapped, optimizer=optimizer, accumulative_counts=accumulate, **options
    )
    wrapper.initialize_count_status(wrapped, 0, STEPS * accumulate)
    losses, names, reduces = [], list(wrapper.keys()), []
    for step in range(STEPS):
        model.progress = step / STEPS
        counter.calls = 0
        batch = make_batch(BATCH, seed=step)
        if 'unlabeled' in case:
            batch['unlabeled'] = make_batch(BATCH, seed=50 + step)
        own = part(batch, rank, world)
        logs = [wrapped.train_step(part(own, i, accumulate), wrapper) for i in range(accumulate)]
        reduces.append(counter.calls / accumulate)
        sums = torch.stack(
            [torch.stack([log[f'{name}/loss'] for name in names]) for log in logs]
        ).mean(0)
        if world > 1:
            dist.all_reduce(sums)
        losses.append(sums / world)
    for place in places:
        place.all_reduce = counter.function
    return dict(
        start=start,
        weights=model.state_dict(),
        losses=torch.stack(losses),
        metrics=evaluate(model, case, rank, world)[0],
        reduces=reduces,
        means=[rule.means for link in model.links for rule in (link.rule, link.guard) if rule],
    )


def evaluate_at(case, weights):
    """One process's metrics at given weights, and its segmenters' logits on the 8 images."""
    model = build(case)
    model.load_state_dict(weights)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as torchrun does: rounding may depend on it
    found = evaluate(model, case)
    torch.set_num_threads(threads)
    return found


def evaluate(model, case, rank=0, world=1):
    _, make_batch, metric = TASKS[CASES[case][0]]
    model.eval()
    logits = []
    evaluators = {name: Evaluator(dict(metric)) for name in model.evaluated}
    for evaluator in evaluators.values():
        evaluator.dataset_meta = dict(
            classes=('polyp',) if metric['type'] == 'CocoMetric' else ('background', 'polyp')
        )
    for index in range(rank, 8, world):  # as mmengine's sampler deals them out
        batch = {key: value[index : index + 1] for key, value in make_batch(8, seed=99).items()}
        for name, samples in model.predict_members(copy.deepcopy(batch)).items():
            evaluators[name].process(samples, batch)
            logits += [sample.seg_logits.data for sample in samples if 'seg_logits' in sample]
    metrics = {
        f'{name}/{key}': float(value)
        for name, evaluator in evaluators.items()
        for key, value in evaluator.evaluate(8).items()
    }
    return metrics, logits


def buffers_are_shared(rank, world):
    """Before an evaluation every rank gets the first one's batch norm statistics."""
    from mmkd.utils.distributed import share_buffers

    DefaultScope.get_instance('buffers', scope_name='mmdet')
    model = toolkit.make_distiller()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    for buffer in model.buffers():
        buffer.add_(rank)
    share_buffers(model)
    assert len(before) > 50 and all(
        torch.equal(buffer, before[name]) for name, buffer in model.named_buffers()
    )


def gradients_are_all_that_is_reduced():
    """Once; in turns with a flag for each tensor, by which ranks agree on what has a gradient."""
    from mmkd.apis.scaling import Reduced, reduce_bucket

    DefaultScope.get_instance('reduced', scope_name='mmpretrain')
    for in_turns in (False, True):
        model = toolkit.make_distiller(**classification('kdml_p'), in_turns=in_turns)
        wrapped = MemberDistributedDataParallel(model, broadcast_buffers=False)
        wrapped.register_comm_hook(None, reduce_bucket)
        wrapper = toolkit.optim_wrapper(wrapped)
        model.progress = 0.5
        wrapped.train_step(classification_batch(2, 0), wrapper)  # torch forms its buckets anew
        with Reduced() as reduced:
            wrapped.train_step(classification_batch(2, 1), wrapper)
        trained = list(model.parameters())
        least = sum(p.numel() * 4 for p in trained)
        assert reduced.bytes == least + 4 * len(trained) * in_turns, (reduced.bytes, least)


def queries_learn(rank):
    """Transformers sum what they need over the ranks after their queries are paired."""
    from mmkd.apis.detector_pairs import batch, build, step

    terms = step(build('DAB-DETR', 'DAB-DETR'), batch(seed=rank))
    links = [value for key, value in terms.items() if '[' in key]
    assert len(links) == 2 and all(0 < value < float('inf') for value in links), terms


def main():
    from mmkd.utils.distributed import init_cpu_distributed
    from mmkd.utils.light_imports import light_imports

    with light_imports():
        import mmpretrain.models  # noqa: F401
        import mmseg.models  # noqa: F401
        from mmdet.utils import register_all_modules

        register_all_modules(False)
    init_cpu_distributed('pytorch')
    rank, world = dist.get_rank(), dist.get_world_size()
    results = {}
    for case in sys.argv[2:]:
        results[case] = run(case, rank, world)
        sums = [None] * world
        dist.all_gather_object(
            sums, {k: v.double().sum().item() for k, v in results[case]['weights'].items()}
        )
        assert all(one == sums[0] for one in sums), f'{case}: the ranks end at different weights'
    buffers_are_shared(rank, world)
    if world == 2:
        gradients_are_all_that_is_reduced()
        queries_learn(rank)
    if rank == 0:
        torch.save(results, sys.argv[1])


if __name__ == '__main__':
    main()
