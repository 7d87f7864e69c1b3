"""What only a GPU can show; tools/gpu_check.sh runs it."""

import copy
import subprocess
import sys

import pytest
import torch
from light_training import environment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU'),
]
FP16 = dict(type='AmpOptimWrapper', dtype='float16', loss_scale='dynamic')


def train(toolkit, steps=3, options=None, **kwargs):
    """Return the model and each step's log."""
    model = toolkit.make_distiller(**kwargs).cuda()
    wrapper = toolkit.optim_wrapper(model, **(options or {}))
    wrapper.initialize_count_status(model, 0, steps)
    model.progress = 1.0
    logs = [model.train_step(toolkit.make_batch(4, seed=i), wrapper) for i in range(steps)]
    return model, logs, wrapper


def test_fp16_with_a_loss_scale_of_each_member(toolkit):
    _, logs, wrapper = train(toolkit, options=FP16, sharing='kdml_mixed_full')
    assert len({id(each.loss_scaler) for each in wrapper.values()}) == 3
    assert all(torch.isfinite(log['loss']) for log in logs)


@pytest.mark.parametrize('options', [{}, FP16])
def test_in_turns_as_together(toolkit, options):
    kwargs = dict(sharing='kdml_p', options=options)
    _, together, _ = train(toolkit, **kwargs)
    _, turns, _ = train(toolkit, in_turns=True, **kwargs)
    for log, own in zip(together, turns):
        torch.testing.assert_close(own['loss'], log['loss'], rtol=2e-2, atol=1e-3)


def test_in_turns_takes_less_memory(toolkit):
    peaks = []
    for in_turns in (False, True):
        members = toolkit.members(students=4, teacher=False)
        torch.cuda.reset_peak_memory_stats()
        train(toolkit, members=members, sharing='ml_p', in_turns=in_turns)
        peaks.append(torch.cuda.max_memory_allocated())
    assert peaks[1] < peaks[0]


def test_compiled_as_it_is(toolkit):
    _, plain, _ = train(toolkit, sharing='kdml_p')
    model, compiled, _ = train(toolkit, sharing='kdml_p', compile=True)
    assert model.network('teacher').backbone.forward.compiler.works
    torch.testing.assert_close(compiled[0]['loss'], plain[0]['loss'], rtol=1e-2, atol=1e-2)


def test_a_frozen_teacher_on_another_device(toolkit, tmp_path):
    teacher = toolkit.make_distiller(members=toolkit.members(students=0)).network('teacher')
    torch.save(teacher.state_dict(), tmp_path / 'teacher.pth')
    frozen = dict(
        toolkit.yolox(options=toolkit.WIDER),
        training='frozen',
        checkpoint=str(tmp_path / 'teacher.pth'),
    )
    devices = ['cuda:1' if torch.cuda.device_count() > 1 else 'cpu', None]
    logs = []
    for device in devices:
        members = toolkit.members(students=1, teacher=dict(frozen, device=device))
        model, log, _ = train(toolkit, members=copy.deepcopy(members), sharing='kd_mixed')
        assert str(next(model.network('teacher').parameters()).device) == (device or 'cuda:0')
        assert next(model.network('student1').parameters()).is_cuda
        logs.append(log[0])
    for key, value in logs[1].items():
        torch.testing.assert_close(logs[0][key], value, rtol=1e-2, atol=1e-3, msg=key)


def test_on_a_stream_of_its_own(toolkit):
    """The whole step follows the current stream."""
    _, plain, _ = train(toolkit, sharing='kdml_mixed_full')
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        _, logs, _ = train(toolkit, sharing='kdml_mixed_full')
    stream.synchronize()
    torch.testing.assert_close(logs[0]['loss'], plain[0]['loss'], rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize('processes', [1, 2])
@pytest.mark.parametrize('in_turns', [False, True])
def test_nccl_sync_bn_and_resume(toolkit, data, tmp_path, processes, in_turns):
    if torch.cuda.device_count() < processes:
        pytest.skip(f'{torch.cuda.device_count()} GPU')
    cfg = toolkit.small_config(data, tmp_path / 'work', **{'model.in_turns': in_turns})
    cfg.sync_bn = 'torch'
    cfg.dump(tmp_path / 'config.py')
    launch = ['-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    command = [str(toolkit.ROOT / 'tools/train.py'), str(tmp_path / 'config.py')]
    for options in (['train_cfg.max_epochs=1'], []):
        more = ['--cfg-options', *options] if options else ['--resume']
        done = subprocess.run(
            [sys.executable, *launch, *command, '--launcher', 'pytorch', *more],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=300,
        )
        assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / 'work/epoch_2.pth').is_file()
