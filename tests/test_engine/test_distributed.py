"""Several gloo processes against one: the same steps and metrics; refusals come at once."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from light_training import ROOT, environment, light_config
from mmengine.config import ConfigDict

pytestmark = pytest.mark.usefixtures('unformatted_configs')
WORKER = Path(__file__).parents[1] / 'distributed_worker.py'
spec = importlib.util.spec_from_file_location('distributed_worker', WORKER)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
FOUR = ['segmentation kdml_mixed_full', 'classification, 2 accumulated']


def torchrun(*command, processes=2, cwd=None):
    launch = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        f'--nproc_per_node={processes}',
        '--standalone',
    ]
    return subprocess.run(
        [*launch, *command], capture_output=True, text=True, cwd=cwd, env=environment(), timeout=600
    )


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    """The results of 2 processes, and of 4 for one case with masks and one with accumulation."""
    found = {}
    for processes, cases in ((2, list(worker.CASES)), (4, FOUR)):
        out = tmp_path_factory.mktemp('runs') / f'{processes}.pth'
        done = torchrun(str(WORKER), str(out), *cases, processes=processes)
        assert done.returncode == 0, done.stderr[-3000:]
        found[processes] = torch.load(out, weights_only=True)
    return found


@pytest.mark.parametrize('case', worker.CASES)
def test_processes_step_like_one_on_the_joined_batch(runs, case):
    """Relative differences of the losses, and of three steps' change of all weights of a member.

    Those of the metrics are absolute. In bf16 a product's rounding (2^-8) depends on the batch
    that it is computed in; one image of 8 may change its label.

    Some pixel of a segmenter is within rounding of a tie, and IoUMetric rounds to two decimals: its
    metrics are compared at the same weights; at its own weights the logits are.
    """
    one = worker.run(case)
    segmenters = case.startswith('segmentation')
    logits = worker.evaluate_at(case, one['weights'])[1]
    assert len(logits) == (32 if segmenters else 0)
    limits = (
        dict(loss=1e-3, weights=3e-2, metric=13)
        if 'bf16' in case
        else dict(loss=1e-5, weights=3e-4, logits=1e-5, metric=1e-3)
    )
    for processes, results in runs.items():
        if case not in results:
            continue
        other = results[case]
        masked = not case.startswith('classification')
        # One for all links, or for each that sums what depends on its predictions (which positions
        # are confident); none in the last step, in which they are silent.
        # One more for all links that measure their gradients.
        count = (2 if 'unlabeled' in case else int(masked)) + ('shares' in case)
        assert other['reduces'] == [count, count, 0], processes
        seen = dict(
            loss=((one['losses'] - other['losses']).abs() / one['losses'].abs()).max().item(),
            weights=0.0,
        )
        for name in ('teacher', 'student1', 'student2', 'link_modules'):
            keys = [
                k
                for k in one['weights']
                if name in k.split('.')[:2] and one['weights'][k].is_floating_point()
            ]
            if keys:
                step = torch.cat([(one['weights'][k] - one['start'][k]).flatten() for k in keys])
                difference = torch.cat(
                    [(one['weights'][k] - other['weights'][k]).flatten() for k in keys]
                )
                assert step.norm() > 0, name
                seen['weights'] = max(seen['weights'], (difference.norm() / step.norm()).item())
        assert set(one['metrics']) == set(other['metrics']) and any(
            v > 0 for v in one['metrics'].values()
        )
        assert len(one['means']) == len(other['means']) == (12 if 'shares' in case else 0)
        for mean, of_ranks in zip(one['means'], other['means']):
            assert mean[0] > 0
            torch.testing.assert_close(mean, of_ranks, rtol=1e-4, atol=1e-5)
        metrics, at_theirs = worker.evaluate_at(case, other['weights'])
        expected = metrics if segmenters else one['metrics']
        seen['metric'] = max(abs(value - other['metrics'][key]) for key, value in expected.items())
        if segmenters:
            seen['logits'] = (torch.stack(logits) - torch.stack(at_theirs)).abs().max().item()
        print(
            f'{case:32s} {processes} processes: '
            + '  '.join(f'{key} {value:.1e}' for key, value in seen.items())
        )
        assert all(value <= limits[key] for key, value in seen.items()), (processes, seen)


def test_a_broken_image_of_one_process_costs_all_of_them_one_step(tmp_path):
    """SimOTA fails on what a network makes of it; the others would wait for what it reduces."""
    done = torchrun(str(WORKER.with_name('broken_rank_worker.py')), str(tmp_path / 'out'))
    assert done.returncode == 0, done.stderr[-3000:]
    one, other = (torch.load(tmp_path / f'out{rank}', weights_only=True) for rank in (0, 1))
    assert one == other and one['skipped'] == [[], ['teacher', 'student1', 'student2'], []]
    first, second, third = one['sums']
    assert first == second != third


def one_epoch(tmp_path, launcher):
    cfg = light_config(tmp_path / 'work')
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.train_dataloader.batch_size = 3
    cfg.dump(tmp_path / 'config.py')
    return [str(ROOT / 'tools/train.py'), str(tmp_path / 'config.py'), '--launcher', launcher]


MPI = {
    'openmpi': ('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_LOCAL_RANK'),
    'pmi': ('PMI_RANK', 'PMI_SIZE', 'MPI_LOCALRANKID'),
}


def started_by_mpi(command, kind, port):
    """Run a command as two processes with the variables that MPI would set; return the outputs."""
    own = ('RANK', 'WORLD_SIZE', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')
    plain = {key: value for key, value in environment().items() if key not in own}
    processes = [
        subprocess.Popen(
            [sys.executable, *command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=dict(
                plain, MASTER_PORT=str(port), **dict(zip(MPI[kind], (str(rank), '2', str(rank))))
            ),
        )
        for rank in range(2)
    ]
    outputs = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs[0][-2000:]
    return outputs


def test_training_by_processes_that_mpi_would_start(tmp_path):
    outputs = started_by_mpi(one_epoch(tmp_path, 'mpi'), 'openmpi', 29581)
    assert (tmp_path / 'work/epoch_1.pth').is_file()
    assert '[2/2]' in outputs[0] and '[4/4]' not in outputs[0]  # 12 images over 2 ranks of 3


SHOW_THREADS = """
import atexit, pathlib, runpy, sys
def show():  # registered first, so called last
    threads = pathlib.Path('/proc/self/task').glob('*/comm')
    print('threads', *[name.read_text().strip() for name in threads])
atexit.register(show)
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name='__main__')
"""


@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_no_thread_of_gloo_is_left_when_python_ends(tmp_path):
    """It could abort the process after a training that went well."""
    tool = tmp_path / 'show_threads.py'
    tool.write_text(SHOW_THREADS)
    outputs = started_by_mpi([str(tool), *one_epoch(tmp_path, 'mpi')], 'openmpi', 29583)
    for output in outputs:
        shown = next(line for line in output.splitlines() if line.startswith('threads'))
        assert 'gloo' not in shown, shown


def test_processes_of_another_mpi_find_each_other():
    program = (
        'from mmkd.utils.distributed import init_cpu_distributed as start; start("mpi");'
        'import torch.distributed as dist; found = [None, None];'
        'dist.all_gather_object(found, dist.get_rank()); print("ranks", found)'
    )
    outputs = started_by_mpi(['-c', program], 'pmi', 29582)
    assert all('ranks [0, 1]' in output for output in outputs)


@pytest.mark.skipif(shutil.which('mpirun') is None, reason='no mpirun')
def test_training_by_mpirun(tmp_path):
    allowed = dict(OMPI_ALLOW_RUN_AS_ROOT='1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM='1')
    done = subprocess.run(
        [
            'mpirun',
            '--oversubscribe',
            '-np',
            '2',
            sys.executable,
            *one_epoch(tmp_path, 'mpi'),
        ],
        capture_output=True,
        text=True,
        env=environment(MASTER_PORT='29583', **allowed),
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert (
        (tmp_path / 'work/epoch_1.pth').is_file()
        and '[2/2]' in done.stdout
        and '[4/4]' not in done.stdout
    )


def test_a_launcher_that_did_not_start_the_process_is_named(monkeypatch):
    from mmkd.utils.distributed import init_cpu_distributed

    for name in ('OMPI_COMM_WORLD_RANK', 'PMI_RANK', 'SLURM_PROCID', 'RANK', 'MASTER_ADDR'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(
        ValueError, match='--launcher mpi: expected OMPI_COMM_WORLD_RANK.*PMI_RANK.*mpirun'
    ):
        init_cpu_distributed('mpi')
    with pytest.raises(ValueError, match='--launcher slurm: expected SLURM_PROCID.*srun'):
        init_cpu_distributed('slurm')
    with pytest.raises(ValueError, match='--launcher pytorch: .*RANK.*torchrun'):
        init_cpu_distributed('pytorch')
    monkeypatch.setenv('OMPI_COMM_WORLD_RANK', '0')
    monkeypatch.setenv('OMPI_COMM_WORLD_SIZE', '4')
    monkeypatch.setenv('OMPI_COMM_WORLD_LOCAL_SIZE', '2')
    with pytest.raises(ValueError, match='several nodes: set MASTER_ADDR'):
        init_cpu_distributed('mpi')


def test_sync_bn_on_cpus_is_refused(toolkit, monkeypatch):
    from mmkd.utils.distributed import check_parallel

    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(ValueError, match="sync_bn: 'torch', but SyncBatchNorm needs GPUs"):
        check_parallel(ConfigDict(launcher='pytorch', sync_bn='torch'))
    check_parallel(
        ConfigDict(launcher='none', sync_bn='torch')
    )  # one process: mmengine makes plain norms of them
    synced = toolkit.yolox(options={**toolkit.NARROW, 'neck.norm_cfg.type': 'SyncBN'})
    toolkit.make_distiller(init=False, members=toolkit.members(student2=synced))
    monkeypatch.setattr('mmkd.utils.distributed.get_world_size', lambda: 2)
    with pytest.raises(
        ValueError, match=r'model.members.student2: neck\.\S+ is a SyncBatchNorm, which needs GPUs'
    ):
        toolkit.make_distiller(init=False, members=toolkit.members(student2=synced))


@pytest.mark.parametrize(
    'changes, named',
    [
        (
            dict(model_wrapper_cfg=dict(type='MMFullyShardedDataParallel')),
            'model_wrapper_cfg.type: MMFullyShardedDataParallel',
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='DeepSpeedStrategy')),
            'strategy.type: DeepSpeedStrategy',
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='FSDPStrategy')),
            'strategy.type: FSDPStrategy',
        ),
        (
            dict(runner_type='FlexibleRunner', strategy=dict(type='mmengine.ColossalAIStrategy')),
            'ColossalAIStrategy',
        ),
    ],
)
def test_sharding_is_refused_when_the_config_is_read(changes, named):
    from mmkd.utils.distributed import check_parallel

    with pytest.raises(ValueError, match=f'{named}.*valid: '):
        check_parallel(ConfigDict(model=dict(members=dict(a={})), **changes))
    check_parallel(ConfigDict(model=dict(type='YOLOX'), **changes))  # not mmkd's business


def test_an_optimiser_owned_by_an_engine_is_refused(toolkit):
    with pytest.raises(ValueError, match='DeepSpeedOptimWrapper cannot train an OnlineDistiller'):
        toolkit.optim_wrapper(toolkit.make_distiller(init=False), type='DeepSpeedOptimWrapper')
