"""Members and ensembles as ONNX, checked against PyTorch by onnxruntime."""

import importlib.util
import json
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from torch import nn
from torch.nn import functional as F

onnxruntime = pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

from mmkd.apis import onnx  # noqa: E402
from mmkd.apis.inference.frames import Frames  # noqa: E402
from mmkd.apis.inference.inferencer import MemberInferencer  # noqa: E402
from mmkd.apis.onnx import (  # noqa: E402
    _check_size,
    _difference,
    _dynamic_size,
    _exported,
    _session,
    export_onnx,
    graph_of,
)
from mmkd.export import inference_model  # noqa: E402
from mmkd.export.onnx_boxes import boxes_of  # noqa: E402
from mmkd.export.onnx_graph import (  # noqa: E402
    ClassificationGraph,
    DetectionGraph,
    build_graph,
    tempered,
)
from mmkd.models.ensembles import SegmentationEnsemble  # noqa: E402
from mmkd.utils.errors import ConfigError  # noqa: E402

DEMOS = sorted((ROOT / 'configs/mmkd').rglob('*_demo.py'))
EXPORTED = set()  # models of demos, many of which have the same


def run(file, images):
    session = onnxruntime.InferenceSession(file, providers=['CPUExecutionProvider'])
    names = [output.name for output in session.get_outputs()]
    outputs = dict(zip(names, session.run(None, {'images': images.float().numpy()})))
    metadata = json.loads(session.get_modelmeta().custom_metadata_map['mmkd'])
    return {name: torch.as_tensor(value) for name, value in outputs.items()}, metadata


@pytest.mark.parametrize('task', ['det', 'seg', 'cls'])
@pytest.mark.parametrize('name', ['student1', 'ensemble'])
def test_a_graph_gives_what_the_model_predicts(checkpoints, data, tmp_path, task, name):
    report = export_onnx(checkpoints[task], tmp_path / 'm.onnx', name, runs=2)
    assert report.dynamic == ['batch', 'size'] and len(report.shapes) == 3 and not report.notes
    assert report.divisor == dict(det=32, seg=16, cls=1)[task]
    free = {1: 'free: batch and size\n'}.get(report.divisor, f' (multiples of {report.divisor})\n')
    assert free in str(report)
    runtimes = ['onnxruntime', *(['openvino'] if importlib.util.find_spec('openvino') else [])]
    assert list(report.difference) == runtimes and [*report.milliseconds][1:] == runtimes
    assert max(value for one in report.difference.values() for value in one.values()) < 1e-4
    assert all(0 < p50 <= p95 for p50, p95 in report.milliseconds.values())
    assert 'free: batch and size' in str(report) and 'onnxruntime' in str(report)
    inferencer = MemberInferencer(checkpoints[task], members=[name], device='cpu', score_thr=0)
    frames = list(Frames(data / 'images/val', limit=2))
    batch = inferencer.prepared(frames)
    images = torch.stack(list(batch['inputs']))  # before the data preprocessor
    outputs, metadata = run(tmp_path / 'm.onnx', images)
    assert metadata['member'] == name and 'polyp' in metadata['classes']
    assert metadata['size_divisor'] == report.divisor
    predicted = [samples[name] for samples in inferencer.forward(batch)]
    if task == 'cls':
        expected = torch.stack([sample.pred_score for sample in predicted])
        torch.testing.assert_close(outputs['scores'], expected, rtol=0, atol=1e-5)
    elif task == 'seg':
        model = inferencer.model
        batch = model.data_preprocessor(batch, False)
        members = model.ensemble_members if name == 'ensemble' else [name]
        metas = [sample.metainfo for sample in batch['data_samples']]
        with torch.no_grad():
            maps = [
                model.network(m).encode_decode(batch['inputs'], metas).softmax(1) for m in members
            ]
        expected = torch.stack(maps).mean(0)
        torch.testing.assert_close(outputs['scores'], expected, rtol=0, atol=1e-5)
    else:
        assert ('student2_boxes' in outputs) == (name == 'ensemble')
        for i, sample in enumerate(predicted):
            found = boxes_of(outputs, metadata, sample.ori_shape, sample.scale_factor, i)
            expected = sample.pred_instances
            assert len(found) == len(expected) > 1
            assert_same_boxes(found, expected)


def assert_same_boxes(found, expected):
    rows, others = (
        torch.cat([x.bboxes, x.scores[:, None], x.labels[:, None]], 1) for x in (found, expected)
    )
    apart = torch.cdist(rows, others, p=float('inf'))  # equal scores may change places
    assert max(apart.amin(0).max(), apart.amin(1).max()) < 0.01


def test_an_ensembles_weights_and_calibration_are_in_the_steps(checkpoints, data):
    cfg = Config.fromfile(checkpoints['det'].parent / 'config.py')
    init_default_scope(cfg.default_scope)
    cfg.model.ensemble.update(
        weights=dict(student1=0.3, student2=1.0),
        calibration=dict(student1=(2.0, -1.0), student2=(0.5, 0.5)),
    )
    inferencer = MemberInferencer(
        checkpoints['det'], cfg, members=['ensemble'], device='cpu', score_thr=0
    )
    batch = inferencer.prepared(list(Frames(data / 'images/val', limit=2)))
    graph = graph_of(inferencer)
    with torch.no_grad():
        values = graph(torch.stack(list(batch['inputs'])).float())
    outputs = {name: value.numpy() for name, value in zip(graph.outputs, values)}
    metadata = json.loads(json.dumps(graph.metadata()))
    assert metadata['fusion']['weights'] == [0.3, 1.0]
    assert metadata['fusion']['calibration'] == [[2.0, -1.0], [0.5, 0.5]]
    for i, samples in enumerate(inferencer.forward(batch)):
        sample = samples['ensemble']
        found = boxes_of(outputs, metadata, sample.ori_shape, sample.scale_factor, i)
        assert len(found) == len(sample.pred_instances) > 1
        assert_same_boxes(found, sample.pred_instances)


def test_an_ensemble_that_fuses_in_another_way_is_refused(checkpoints):
    class Highest(SegmentationEnsemble):
        pass

    inferencer = MemberInferencer(checkpoints['seg'], members=['ensemble'], device='cpu')
    inferencer.model.ensemble = Highest()
    with pytest.raises(ConfigError, match=r'model\.ensemble\.type: Highest cannot be exported'):
        graph_of(inferencer)


def settle(graph):
    """Give normalizations the statistics of random images: untrained, outputs explode.

    So do YOLOX's boxes, whose sides are exponentials.
    """
    with torch.no_grad():
        for name, parameter in graph.named_parameters():
            if 'multi_level_conv_reg' in name:
                parameter.mul_(0.01)
    for module in graph.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = None
    with torch.no_grad():
        graph.train()(torch.rand(4, 3, 64, 64) * 255)
    graph.eval()


@pytest.mark.parametrize('file', DEMOS, ids=lambda file: file.stem)
def test_every_demo_configs_student_and_ensemble_can_be_exported(file):
    cfg = Config.fromfile(file)
    init_default_scope(cfg.default_scope)
    model_cfg = inference_model(cfg, ['ensemble'])
    text = str(model_cfg)
    if text in EXPORTED:
        return
    model = MODELS.build(model_cfg).eval()
    members = {name: model.network(name) for name in model.ensemble_members}
    student = {'student1': members['student1']}
    for networks, fusion in ((student, None), (members, model.ensemble)):
        graph = build_graph(model.task, networks, fusion)
        settle(graph)
        shape = (2, 3, 64, 64)
        data, divisor, problem = _dynamic_size(graph, onnxruntime, shape)
        if data is None:  # a SegFormer's attention keeps the size of its traced image
            assert 'segformer' in file.stem and 'Reshape' in problem
            data = _exported(graph, shape, free_size=False)
            found = _difference(graph, _session(onnxruntime, data), [shape])
            assert list(found) == ['scores'] and found['scores'] < 1e-4
        else:
            kinds = dict(yolox=32, unet=16, resnet=1)
            assert divisor == next(n for kind, n in kinds.items() if kind in file.stem)
    EXPORTED.add(text)


def test_a_temperature_is_part_of_the_graph(checkpoints):
    images = torch.rand(2, 3, 64, 64) * 255
    with torch.no_grad():
        for task, members in (('cls', ['student1']), ('seg', ['ensemble'])):
            inferencer = MemberInferencer(checkpoints[task], members=members, device='cpu')
            plain, softer = (graph_of(inferencer, t)(images) for t in (1.0, 3.0))
            expected = (plain.log() / 3).softmax(1)
            torch.testing.assert_close(softer, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(
        tempered(torch.tensor([0.8]), 2.0, sigmoid=True), torch.tensor([2 / 3])
    )


class Toy(nn.Module):
    """A classifier's surroundings around any layers."""

    def __init__(self, *layers):
        super().__init__()
        from mmpretrain.models import ClsDataPreprocessor

        self.data_preprocessor = ClsDataPreprocessor(mean=[1.0, 2, 3], std=[2.0, 2, 2])
        self.head = SimpleNamespace()
        self.body = nn.Sequential(*layers)

    def forward(self, images, mode):
        return self.body(images)


class Spectrum(nn.Module):
    def forward(self, images):
        return torch.fft.fft2(images).abs().mean((2, 3))


def test_what_cannot_be_exported_is_named():
    graph = ClassificationGraph(dict(student1=Toy(nn.Conv2d(3, 4, 1), Spectrum())))
    with pytest.raises(ConfigError, match=r'student1\.body\.1: Spectrum cannot be exported'):
        _exported(graph, (1, 3, 8, 8), free_size=False)
    second_stage = SimpleNamespace(roi_head=SimpleNamespace())
    with pytest.raises(ConfigError, match=r'teacher\.roi_head: SimpleNamespace cannot be exported'):
        DetectionGraph.check(None, 'teacher', second_stage)


def test_a_network_of_one_size_is_exported_for_that_size():
    graph = ClassificationGraph(dict(student1=Toy(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)))).eval()
    data, divisor, why = _dynamic_size(graph, onnxruntime, (2, 3, 8, 8))
    assert data is None and divisor is None
    assert why.startswith('PyTorch itself cannot run (1, 3, 128, 128)')


class Halved(nn.Module):
    """Channels at a fourth of the size and back; other sizes than multiples of 4 do not fit."""

    def forward(self, images):
        small = F.max_pool2d(F.max_pool2d(images, 2), 2)
        return (F.interpolate(small, scale_factor=4.0) + images).mean((2, 3))


def test_of_which_number_a_free_size_must_be_multiples():
    graph = ClassificationGraph(dict(student1=Toy(Halved()))).eval()
    data, divisor, _ = _dynamic_size(graph, onnxruntime, (2, 3, 12, 12))
    assert data is not None and divisor == 4
    for given, size in ((True, '10 x 12'), (False, r"10 x 12 \(the test pipeline's\)")):
        with pytest.raises(ConfigError, match=rf'--size: the network cannot run {size}: The size'):
            _check_size(graph, 10, 12, given)
    with pytest.raises(ConfigError, match=r'; expected multiples of 4$'):
        _check_size(graph, 10, 12, given=True)
    _check_size(graph, 8, 4, given=True)
    linear = ClassificationGraph(dict(student1=Toy(nn.Flatten(), nn.Linear(192, 2)))).eval()
    with pytest.raises(ConfigError) as caught:  # of one size: no multiples fit
        _check_size(linear, 9, 9, given=True)
    assert 'multiples' not in str(caught.value)


def test_wrong_inputs(checkpoints, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match=r'OUT: expected a path that ends in .onnx'):
        export_onnx(checkpoints['cls'], tmp_path / 'm.pth')
    (tmp_path / 'm.onnx').mkdir()
    with pytest.raises(ConfigError, match=r'OUT: expected a file, got the folder .*m\.onnx'):
        export_onnx(tmp_path / 'none.pth', tmp_path / 'm.onnx')
    (tmp_path / 'm.onnx').rmdir()
    for task, size in (('det', (100, 100)), ('seg', (50, 70))):
        expected = rf'--size: the network cannot run {size[0]} x {size[1]}: .*; expected multiples'
        with pytest.raises(ConfigError, match=expected):
            export_onnx(checkpoints[task], tmp_path / 'm.onnx', size=size)
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with pytest.raises(ConfigError, match=r'pip install "mmkd\[onnx\]"'):
        export_onnx(checkpoints['cls'], tmp_path / 'm.onnx')
    assert not list(tmp_path.iterdir())


def test_outputs_that_are_no_numbers_differ():
    class Zeros(torch.nn.Module):
        outputs = ('scores',)

        def forward(self, images):
            return torch.zeros(1, 2)

    session = SimpleNamespace(run=lambda names, given: [np.full((1, 2), np.nan, np.float32)])
    found = _difference(Zeros(), session, [(1, 3, 8, 8), (1, 3, 8, 8)])
    assert np.isnan(found['scores'])


@pytest.mark.parametrize('first, second', [(0.0, float('nan')), (float('nan'), 0.0)])
def test_an_output_that_is_no_number_is_a_difference(monkeypatch, first, second):
    found = dict(boxes=first, scores=second)
    monkeypatch.setattr(onnx, '_difference', lambda *args: found)
    assert 'onnxruntime differs by' in onnx._problem(None, None, (1, 3, 64, 64))
    found.update(boxes=0.0, scores=1e-9)
    assert onnx._problem(None, None, (1, 3, 64, 64)) == ''
