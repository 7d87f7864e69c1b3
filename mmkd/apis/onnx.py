"""Exporting to ONNX: the graph, its check against PyTorch, and its latency."""

from __future__ import annotations

import io
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mmkd.apis.calibrating import read_temperature
from mmkd.apis.inference.frames import Frame
from mmkd.apis.inference.inferencer import MemberInferencer
from mmkd.export.onnx_graph import Graph, build_graph
from mmkd.utils.errors import ConfigError, wrong_paths
from mmkd.utils.files import check_file_path, write_atomically
from mmkd.utils.text import align

OPSET = 17
TOLERANCE = 1e-3  # of probabilities
MULTIPLES = (1, 2, 4, 8, 16, 32, 64)  # strides of networks


@dataclass
class OnnxReport:
    """What an export has found.

    Args:
        file: The ONNX file.
        inputs: Shape of the input, a name where it is free.
        outputs: Shapes of the outputs by name.
        dynamic: What is free: `batch`, `size`.
        divisor: A free size's height and width must be multiples of it. None where they are fixed.
        difference: By runtime (`onnxruntime`, `openvino` where it is installed) and output the
            largest difference from PyTorch, over all checked shapes; of boxes relative to the
            input's longer side.
        shapes: The checked shapes of the input.
        milliseconds: p50 and p95 at batch 1 of `pytorch` and the runtimes.
        notes: What a user must know.
    """

    file: Path
    inputs: list[int | str]
    outputs: dict[str, list[int | str]]
    dynamic: list[str]
    divisor: int | None
    difference: dict[str, dict[str, float]]
    shapes: list[tuple[int, ...]]
    milliseconds: dict[str, tuple[float, float]]
    notes: list[str]

    def __str__(self) -> str:
        free = ' and '.join(self.dynamic)
        if self.divisor not in (None, 1):
            free += f' (multiples of {self.divisor})'
        rows = [['batch 1, ms', 'p50', 'p95']]
        rows += [[name, f'{p50:.1f}', f'{p95:.1f}'] for name, (p50, p95) in
                 self.milliseconds.items()]  # fmt: skip
        lines = [
            f'wrote {self.file}',
            f'input images {self.inputs}, free: {free}',
            *(f'output {name} {shape}' for name, shape in self.outputs.items()),
            f'largest difference from PyTorch over the shapes {self.shapes}:',
            *(
                f'  {runtime}: {name} {value:.2e}'
                for runtime, found in self.difference.items()
                for name, value in found.items()
            ),
            *(f'note: {note}' for note in self.notes),
        ]
        return '\n'.join([*lines, '', align(rows)])


def require_onnx() -> Any:
    """Return the module onnxruntime.

    Raises:
        ConfigError: If the packages of the extra `onnx` are missing.
    """
    try:
        import onnx  # noqa: F401
        import onnxruntime
    except ImportError as error:
        raise ConfigError(f'{error}: pip install "mmkd[onnx]" (requirements/onnx.txt)') from error
    return onnxruntime


def openvino_session(data: bytes) -> OpenVinoSession | None:
    """Return OpenVINO's network of an ONNX file's content, None where it is not installed."""
    try:
        import openvino
    except ImportError:
        return None
    return OpenVinoSession(openvino, data)


class OpenVinoSession:
    """An ONNX graph on the CPU by OpenVINO, called as an onnxruntime session.

    It computes in float32, as the other two; OpenVINO takes bfloat16 where the CPU has it unless it
    is told so.
    """

    def __init__(self, openvino: Any, data: bytes) -> None:
        options = {
            'INFERENCE_PRECISION_HINT': 'f32',
            'INFERENCE_NUM_THREADS': torch.get_num_threads(),
            'PERFORMANCE_HINT': 'LATENCY',
        }
        core = openvino.Core()
        self._network = core.compile_model(core.read_model(data), 'CPU', options)

    def run(self, names: Sequence[str] | None, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Return the outputs of these names (None: all)."""
        found = self._network(dict(feed))
        return [np.asarray(found[key]) for key in names or self._network.outputs]


def export_onnx(
    checkpoint: str | Path,
    out: str | Path,
    member: str | None = None,
    config: str | Path | None = None,
    size: tuple[int, int] | None = None,
    temperature: float | str = 1.0,
    runs: int = 20,
) -> OnnxReport:
    """Export a member, or the ensemble as one graph, and check it with onnxruntime.

    OpenVINO reads the same file: where it is installed it is checked and measured, too. The batch
    is dynamic, and height and width where the network allows it: that is tried out, and of which
    number they must be multiples (1, 2, 4, ... or 64). The file's metadata has it as
    `size_divisor`, null where the size is fixed.

    Args:
        checkpoint: Of a training, or of an exported member or ensemble.
        out: Path of the file, `.onnx`.
        member: Of a checkpoint with members. Default: the ensemble.
        config: Default: the one beside the checkpoint.
        size: Height and width of the input. Default: what the test pipeline makes of a 4:3 image.
        temperature: What the log-odds are divided by, or a file of `tools/calibrate.py`.
        runs: Measured runs at batch 1 of each.

    Raises:
        ConfigError: If the network cannot run the size, if a module cannot be exported (which, and
            why), or if onnxruntime's outputs differ from PyTorch's; nothing is written then.
    """
    runtime = require_onnx()
    out = Path(out)
    if out.suffix != '.onnx':
        raise ConfigError(f'OUT: expected a path that ends in .onnx, got {str(out)!r}')
    check_file_path(out, 'OUT')
    inferencer = MemberInferencer(checkpoint, config, member and [member], device='cpu')
    temperature = read_temperature(str(temperature), inferencer.names[0])
    graph = graph_of(inferencer, temperature)
    height, width = size or _input_size(inferencer)
    _check_size(graph, height, width, given=size is not None)
    shapes: list[tuple[int, ...]] = [(2, 3, height, width), (1, 3, height, width)]
    data, divisor, problem = _dynamic_size(graph, runtime, shapes[0])
    notes, free_size = [], data is not None
    if data is None:
        notes.append(f'height and width are fixed: {problem}')
        data = _exported(graph, shapes[0], free_size=False)
    if divisor is not None:
        shapes.append((3, 3, *_larger(height, width, divisor)))
    session = _session(runtime, data)
    difference = dict(onnxruntime=_difference(graph, session, shapes))
    for name, value in difference['onnxruntime'].items():
        if not value <= TOLERANCE:
            raise ConfigError(
                f'{name}: onnxruntime differs from PyTorch by {value:.2e}, more than {TOLERANCE:g}'
            )
    metadata = dict(
        classes=list(inferencer.metainfo['classes']),
        member=inferencer.names[0],
        temperature=temperature,
        input='float32 images as the test pipeline leaves them: BGR, 0 to 255',
        size_divisor=divisor,
        **graph.metadata(),
    )
    data = _with_metadata(data, metadata)
    sessions: dict[str, Any] = dict(onnxruntime=session)
    try:
        other = openvino_session(data)
        if other is not None:
            difference['openvino'] = _difference(graph, other, shapes)
            sessions['openvino'] = other
    except Exception as error:  # OpenVINO's errors have no common base
        notes.append(f'OpenVINO cannot run it: {_first_line(error)}')
    worst = max(difference.get('openvino', {'': 0.0}).values())
    if not worst <= TOLERANCE:
        notes.append(f'OpenVINO differs from PyTorch by {worst:.2e}')
    with wrong_paths():
        write_atomically(out, lambda path: Path(path).write_bytes(data))
    image = torch.rand(1, 3, height, width) * 255
    feed = {'images': image.numpy()}
    return OnnxReport(
        file=out,
        inputs=_named(shapes[0], {2: 'height', 3: 'width'} if free_size else {}),
        outputs={
            name: _named(output.shape, graph.positions.get(name, {}) if free_size else {})
            for name, output in zip(graph.outputs, _torch_outputs(graph, image))
        },
        dynamic=['batch', 'size'] if free_size else ['batch'],
        divisor=divisor,
        difference=difference,
        shapes=shapes,
        milliseconds=dict(
            pytorch=_milliseconds(lambda: _torch_outputs(graph, image), runs),
            **{
                name: _milliseconds(partial(own.run, None, feed), runs)
                for name, own in sessions.items()
            },
        ),
        notes=notes,
    )


def graph_of(inferencer: MemberInferencer, temperature: float = 1.0) -> Graph:
    """Return the graph of what an inferencer predicts with."""
    trained, (name, *_) = inferencer.trained, inferencer.names
    if not trained.is_distiller:
        return build_graph(trained.task, {name: trained.model}, None, temperature)
    model = trained.model
    members = model.ensemble_members if name == 'ensemble' else [name]
    networks = {member: model.network(member) for member in members}
    fusion = model.ensemble if name == 'ensemble' else None
    return build_graph(trained.task, networks, fusion, temperature)


def _input_size(inferencer: MemberInferencer) -> tuple[int, int]:
    data = inferencer.prepared([Frame('image', np.zeros((480, 640, 3), np.uint8))])
    inputs = inferencer.model.data_preprocessor(data, False)['inputs']
    return int(inputs.shape[2]), int(inputs.shape[3])


def _check_size(graph: Graph, height: int, width: int, given: bool) -> None:
    """Raise a ConfigError for a size that the network itself cannot run."""
    problem = _torch_problem(graph, (1, 3, height, width)).rstrip('.')
    if not problem:
        return
    sizes = {n: (1, 3, *_larger(height, width, n)) for n in MULTIPLES}
    divisor = next((n for n, shape in sizes.items() if not _torch_problem(graph, shape)), 1)
    expected = f'; expected multiples of {divisor}' if height % divisor or width % divisor else ''
    origin = '' if given else " (the test pipeline's)"
    raise ConfigError(
        f'--size: the network cannot run {height} x {width}{origin}: {problem}{expected}'
    )


def _larger(height: int, width: int, divisor: int) -> tuple[int, int]:
    """Return a larger size whose sides are multiples of `divisor`, but of no greater one.

    One side is just above, one just below a multiple of 64: layers that halve round up or down.
    """
    height, width = (64 * math.ceil(side / 64) for side in (height, width))
    return height + divisor, width + 128 - divisor


def _dynamic_size(
    graph: Graph, runtime: Any, shape: Sequence[int]
) -> tuple[bytes | None, int | None, str]:
    """Try a graph for images of any size, or of any multiple of a number.

    Returns:
        Its bytes and the least of `MULTIPLES` that will do, or None, None and why not.
    """
    *others, last = [(n, (1, 3, *_larger(shape[2], shape[3], n))) for n in MULTIPLES]
    problem = _torch_problem(graph, last[1])
    if problem:
        return None, None, f'PyTorch itself cannot run {last[1]}: {problem}'
    data = _exported(graph, shape, free_size=True)
    try:
        session = _session(runtime, data)
    except Exception as error:  # onnxruntime's errors have no common base
        return None, None, f'onnxruntime cannot load it: {_first_line(error)}'
    problem = _problem(graph, session, last[1])
    if problem:
        return None, None, problem
    for divisor, larger in others:
        if not _torch_problem(graph, larger) and not _problem(graph, session, larger):
            return data, divisor, ''
    return data, last[0], ''


def _torch_problem(graph: Graph, shape: Sequence[int]) -> str:
    """Return why PyTorch cannot run images of a shape, '' if it can."""
    try:
        _torch_outputs(graph, torch.zeros(tuple(shape)))
    except Exception as error:  # a network may raise anything at a size it was not made for
        return _first_line(error)
    return ''


def _problem(graph: Graph, session: Any, shape: Sequence[int]) -> str:
    """Return what is wrong with a graph at a shape that PyTorch can run, '' if nothing."""
    try:
        found = _difference(graph, session, [shape]).values()
    except Exception as error:  # onnxruntime's errors have no common base
        return f'onnxruntime cannot run {shape}: {_first_line(error)}'
    if all(value <= TOLERANCE for value in found):  # not of the largest: that may pass over a NaN
        return ''
    return f'at {shape} onnxruntime differs by {max(found):.1e}'


def _named(shape: Sequence[int], names: Mapping[int, str]) -> list[int | str]:
    return [{0: 'batch', **names}.get(axis, int(side)) for axis, side in enumerate(shape)]


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


@torch.no_grad()
def _exported(graph: Graph, shape: Sequence[int], free_size: bool) -> bytes:
    axes: dict[str, dict[int, str]] = {'images': {0: 'batch'}}
    axes.update({name: {0: 'batch'} for name in graph.outputs})
    if free_size:
        axes['images'].update({2: 'height', 3: 'width'})
        for name, own in graph.positions.items():
            axes[name].update(own)
    names = dict(input_names=['images'], output_names=list(graph.outputs), dynamic_axes=axes)
    image = torch.rand(tuple(shape)) * 255
    _torch_outputs(graph, image)  # what fails here is no matter of ONNX
    try:
        return _onnx_bytes(graph, (image,), **names)
    except Exception as error:  # the exporter's errors have no common base
        path, module, reason = _culprit(graph, (image,), 'graph', error)
        raise ConfigError(
            f'{path.removeprefix("graph.networks.")}: {type(module).__name__} cannot be exported '
            f'to ONNX (opset {OPSET}): {_first_line(reason)}'
        ) from error


def _onnx_bytes(module: nn.Module, inputs: tuple[Any, ...], **names: Any) -> bytes:
    """Export by tracing, which follows the toolboxes' Python as it is run."""
    buffer = io.BytesIO()
    options: dict[str, Any] = dict(names, opset_version=OPSET)
    if 'dynamo' in signature(torch.onnx.export).parameters:
        options['dynamo'] = False
    with warnings.catch_warnings(), _sizes_left_open():
        warnings.simplefilter('ignore')  # of each Python number that is traced as a constant
        torch.onnx.export(module, inputs, cast(Any, buffer), **options)
    return buffer.getvalue()


@contextmanager
def _sizes_left_open() -> Iterator[None]:
    """Let mmseg's `Upsample` follow the input's size, of which it makes integers."""
    wrappers: Any = sys.modules.get('mmseg.models.utils.wrappers')
    if wrappers is None:
        yield
        return
    forward = wrappers.Upsample.forward

    def by_scale(self: Any, x: Tensor) -> Tensor:
        scale = None if self.size else self.scale_factor
        return F.interpolate(x, self.size or None, scale, self.mode, self.align_corners)

    wrappers.Upsample.forward = by_scale
    try:
        yield
    finally:
        wrappers.Upsample.forward = forward


def _culprit(
    module: nn.Module, inputs: tuple[Any, ...], path: str, error: Exception
) -> tuple[str, nn.Module, Exception]:
    """Find the innermost module that cannot be exported by itself: path, module, its error."""
    seen: dict[str, tuple[Any, ...]] = {}
    handles = []

    def note(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if args and not kwargs and all(isinstance(arg, Tensor) for arg in args):
            seen.setdefault(name, args)  # else its own modules are looked at in its place

    for name, child in module.named_modules():
        if name:
            handles.append(
                child.register_forward_pre_hook(
                    lambda child, args, kwargs, name=name: note(name, args, kwargs),
                    with_kwargs=True,
                )
            )
    try:
        with torch.no_grad():
            module(*inputs)
    finally:
        for handle in handles:
            handle.remove()
    for name, args in seen.items():
        if any(name.startswith(f'{other}.') for other in seen):
            continue  # inside another one
        child = module.get_submodule(name)
        try:
            with torch.no_grad():
                _onnx_bytes(child, args)
        except Exception as own:
            return _culprit(child, args, f'{path}.{name}', own)
    return path, module, error


def _session(runtime: Any, data: bytes) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # as PyTorch, for the latency
    options.log_severity_level = 4  # what it cannot run is raised, and told once
    return runtime.InferenceSession(data, options, providers=['CPUExecutionProvider'])


@torch.no_grad()
def _torch_outputs(graph: Graph, images: Tensor) -> tuple[Tensor, ...]:
    outputs = graph(images)
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _difference(graph: Graph, session: Any, shapes: Sequence[Sequence[int]]) -> dict[str, float]:
    generator = torch.Generator().manual_seed(0)
    worst = dict.fromkeys(graph.outputs, 0.0)
    for shape in shapes:
        images = torch.rand(tuple(shape), generator=generator) * 255
        found = session.run(list(graph.outputs), {'images': images.numpy()})
        for name, one, other in zip(graph.outputs, found, _torch_outputs(graph, images)):
            unit = max(shape[2:]) if name.endswith('boxes') else 1.0
            if one.shape != tuple(other.shape):
                raise ValueError(f'{name} has shape {one.shape}, not {tuple(other.shape)}')
            difference = np.abs(one - other.numpy()).max(initial=0.0) / unit
            # Unlike `max` it keeps what is no number.
            worst[name] = float(np.maximum(worst[name], difference))
    return worst


def _with_metadata(data: bytes, metadata: dict[str, Any]) -> bytes:
    import onnx

    model = onnx.load_model_from_string(data)
    onnx.checker.check_model(model)
    entry = model.metadata_props.add()
    entry.key, entry.value = 'mmkd', json.dumps(metadata)
    return model.SerializeToString()


def _milliseconds(run: Callable[[], Any], runs: int) -> tuple[float, float]:
    run()
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    p50, p95 = np.percentile(seconds, (50, 95))
    return 1000 * float(p50), 1000 * float(p95)
