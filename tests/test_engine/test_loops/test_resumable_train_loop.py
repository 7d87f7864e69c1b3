"""The batches that a training sees: draws, unlabeled images, exact resuming; with a toy model."""

import multiprocessing
import random
import types

import numpy as np
import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, MODELS
from mmengine.runner import Runner, loops
from torch import nn
from torch.utils.data import Dataset

pytestmark = pytest.mark.usefixtures('unformatted_configs')


@DATASETS.register_module(force=True)
class DrawingDataset(Dataset):
    """Samples that say which they are and what they drew."""

    metainfo: dict = {}

    def __init__(self, size=10, offset=0):
        self.size, self.offset = size, offset

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        draws = [random.random(), float(np.random.rand()), torch.rand(()).item()]
        return dict(inputs=torch.tensor([float(self.offset + index), *draws], dtype=torch.float64))


@DATASETS.register_module(force=True)
class WideDataset(DrawingDataset):
    """The same, of images that are all wider than high."""

    def get_data_info(self, index):
        return dict(width=2, height=1)


@MODELS.register_module(force=True)
class RecordingModel(BaseModel):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))
        self.seen = []

    def forward(self, inputs, data_samples=None, mode='tensor'):
        raise AssertionError('only train_step is called')

    def train_step(self, data, optim_wrapper):
        self.seen.append(
            {
                kind: torch.stack(batch['inputs'])
                for kind, batch in (('labeled', data), ('unlabeled', data.get('unlabeled')))
                if batch is not None
            }
        )
        optim_wrapper.update_params((self.weight - 1) ** 2)
        return {}


class Interrupt(Exception):
    pass


@HOOKS.register_module(force=True)
class InterruptHook(Hook):
    """Saves a checkpoint and ends the run after an iteration, as a preemption does."""

    priority = 'LOWEST'

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            runner.save_checkpoint(runner.work_dir, 'cut.pth', by_epoch=False)
            raise Interrupt


def loader(size=10, offset=0, batch_size=3, workers=0, persistent=False, **options):
    return dict(
        dict(
            batch_size=batch_size,
            num_workers=workers,
            persistent_workers=persistent,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='DrawingDataset', size=size, offset=offset),
        ),
        **options,
    )


def make_runner(work_dir, unlabeled=None, labeled=None, loop=None, **options):
    make_runner.count = getattr(make_runner, 'count', 0) + 1
    cfg = dict(
        model=dict(type='RecordingModel'),
        work_dir=str(work_dir),
        experiment_name=f'loop{make_runner.count}',
        train_dataloader=labeled or loader(),
        train_cfg=loop or dict(type='mmkd.ResumableTrainLoop', max_epochs=3),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1)),
        default_hooks=dict(checkpoint=None),
        randomness=dict(seed=5),
        default_scope='mmengine',
    )
    cfg.update(options)
    if unlabeled is not None:
        cfg['unlabeled_dataloader'] = unlabeled
    runner = Runner(
        **{key: value for key, value in cfg.items() if key != 'unlabeled_dataloader'}, cfg=cfg
    )
    return runner


def seen_by(runner):
    runner.train()
    return runner.model.seen


def equal(one, other):
    return len(one) == len(other) and all(
        a.keys() == b.keys() and all(torch.equal(a[kind], b[kind]) for kind in a)
        for a, b in zip(one, other)
    )


def test_each_iteration_gets_an_unlabeled_batch(tmp_path):
    seen = seen_by(make_runner(tmp_path, loader(7, offset=100, batch_size=2)))
    assert len(seen) == 12 and all(set(batches) == {'labeled', 'unlabeled'} for batches in seen)
    indices = torch.cat([batches['unlabeled'][:, 0] for batches in seen]).tolist()
    epochs = [indices[:7], indices[7:14], indices[14:21]]
    assert all(sorted(epoch) == list(range(100, 107)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert [len(batches['unlabeled']) for batches in seen[:5]] == [2, 2, 2, 1, 2]


def test_unlabeled_batches_may_be_an_argument_of_the_loop(tmp_path):
    loop = dict(
        type='mmkd.ResumableTrainLoop', max_epochs=1, unlabeled_dataloader=loader(4, offset=100)
    )
    assert all('unlabeled' in batches for batches in seen_by(make_runner(tmp_path, loop=loop)))


def test_unlabeled_images_leave_the_labeled_batches_as_they_are(tmp_path):
    alone = seen_by(make_runner(tmp_path / 'alone'))
    both = seen_by(make_runner(tmp_path / 'both', loader(6)))
    assert equal(alone, [dict(labeled=batches['labeled']) for batches in both])
    one, other = both[0]['labeled'], both[0]['unlabeled']
    assert not set(one[:, 1].tolist()) & set(other[:, 1].tolist())  # draws of their own


@pytest.mark.parametrize(
    'unlabeled, message',
    [
        (loader(0), 'unlabeled_dataloader: 0 images give no batch of batch_size=3'),
        (loader(2, drop_last=True), 'unlabeled_dataloader: 2 images give no batch.*drop_last'),
        (dict(batch_size=2), "unlabeled_dataloader: expected a loader's config with 'dataset'"),
        (dict(dataset=dict(type='DrawingDataset')), 'unlabeled_dataloader.sampler: must be given'),
        ('images/', "unlabeled_dataloader: expected a loader's config"),
    ],
)
def test_wrong_unlabeled_loaders(tmp_path, unlabeled, message):
    with pytest.raises(ValueError, match=message):
        make_runner(tmp_path, unlabeled).train()


def test_every_epoch_draws_anew_and_every_sample_on_its_own(tmp_path):
    seen = seen_by(make_runner(tmp_path, labeled=loader(workers=2)))
    draws = torch.cat([batches['labeled'] for batches in seen])
    assert draws.shape == (30, 4)
    for column in (1, 2, 3):
        assert len(set(draws[:, column].tolist())) == 30


@pytest.mark.parametrize('workers, persistent', [(2, False), (2, True)])
def test_draws_do_not_depend_on_the_workers(tmp_path, workers, persistent):
    alone = seen_by(make_runner(tmp_path / 'alone', loader(7)))
    options = dict(workers=workers, persistent=persistent)
    other = seen_by(
        make_runner(tmp_path / 'other', loader(7, **options), labeled=loader(**options))
    )
    assert equal(alone, other)


def test_loading_leaves_the_trainings_random_states_alone(tmp_path):
    runner = make_runner(tmp_path, loader(7))
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    expected = random.random(), np.random.rand(), torch.rand(())
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    runner.train()
    assert (random.random(), np.random.rand(), torch.rand(())) == expected


ITERATIONS = dict(type='mmkd.ResumableIterTrainLoop', max_iters=12)


@pytest.mark.parametrize(
    'loop, workers, persistent, iteration',
    [
        ('epochs', 0, False, 4),
        ('epochs', 2, False, 6),
        ('epochs', 2, True, 6),
        ('iterations', 0, False, 4),
        ('iterations', 2, True, 6),
        ('infinite', 2, True, 6),
    ],
)
def test_a_resumed_run_gets_the_batches_of_an_unbroken_one(
    tmp_path, loop, workers, persistent, iteration
):
    options = dict(workers=workers, persistent=persistent)
    loaders = dict(unlabeled=loader(7, **options), labeled=loader(**options))
    if loop != 'epochs':
        loaders['loop'] = ITERATIONS
    if loop == 'infinite':
        loaders['labeled']['sampler'] = dict(type='InfiniteSampler', shuffle=True)
    whole = seen_by(make_runner(tmp_path / 'whole', **loaders))
    broken = make_runner(
        tmp_path / 'broken',
        **loaders,
        custom_hooks=[dict(type='InterruptHook', iteration=iteration)],
    )
    with pytest.raises(Interrupt):
        broken.train()
    resumed = make_runner(
        tmp_path / 'broken', **loaders, resume=True, load_from=str(tmp_path / 'broken/cut.pth')
    )
    rest = seen_by(resumed)
    assert len(rest) == 12 - iteration and equal(whole, broken.model.seen + rest)


def test_iterations_pass_over_the_data_anew_each_time(tmp_path):
    seen = seen_by(make_runner(tmp_path, loop=ITERATIONS))
    indices = torch.cat([batches['labeled'][:, 0] for batches in seen]).tolist()
    passes = [indices[:10], indices[10:20], indices[20:30]]
    assert all(sorted(one) == list(range(10)) for one in passes)
    assert passes[0] != passes[1] != passes[2]


def test_a_batch_sampler_that_keeps_a_bucket_gives_each_image_once_an_epoch(tmp_path):
    """MMDetection's sampler by aspect ratio clears the last full bucket when it is asked on."""
    labeled = loader(6, batch_sampler=dict(type='mmdet.AspectRatioBatchSampler'))
    labeled['dataset']['type'] = 'WideDataset'
    seen = seen_by(make_runner(tmp_path / 'whole', labeled=labeled))
    indices = torch.cat([batches['labeled'][:, 0] for batches in seen]).tolist()
    assert all(sorted(indices[i : i + 6]) == list(range(6)) for i in (0, 6, 12))
    broken = make_runner(
        tmp_path / 'broken', labeled=labeled, custom_hooks=[dict(type='InterruptHook', iteration=3)]
    )
    with pytest.raises(Interrupt):
        broken.train()
    cut = str(tmp_path / 'broken/cut.pth')
    resumed = make_runner(tmp_path / 'broken', labeled=labeled, resume=True, load_from=cut)
    assert equal(seen, broken.model.seen + seen_by(resumed))


@pytest.mark.parametrize('loop', [None, ITERATIONS])
def test_no_worker_outlives_the_training(tmp_path, loop):
    before = set(multiprocessing.active_children())
    options = dict(workers=2, persistent=True)
    loaders = dict(unlabeled=loader(7, **options), labeled=loader(**options))
    runner = make_runner(tmp_path, loop=loop, **loaders)
    assert len(seen_by(runner)) == 12
    assert set(multiprocessing.active_children()) == before


def test_the_original_mmengine_begins_no_batches_early(tmp_path, monkeypatch):
    class Early(loops._InfiniteDataloaderIterator):
        def __init__(self, dataloader):
            super().__init__(dataloader)
            self._iterator = iter(dataloader)

    options = dict(sampler=dict(type='InfiniteSampler', shuffle=True))
    labeled = loader(**options)
    whole = seen_by(make_runner(tmp_path, loop=ITERATIONS, labeled=labeled))
    monkeypatch.setattr(loops, '_InfiniteDataloaderIterator', Early)
    labeled = loader(workers=1, persistent=True, **options)
    assert equal(whole, seen_by(make_runner(tmp_path, loop=ITERATIONS, labeled=labeled)))


def test_the_batches_of_a_run_without_a_seed_are_kept_in_its_checkpoint(tmp_path):
    options = dict(randomness=dict(seed=None))
    broken = make_runner(
        tmp_path, **options, custom_hooks=[dict(type='InterruptHook', iteration=4)]
    )
    state = None

    def keep(iteration):
        nonlocal state
        state = broken.train_loop.state_dict()

    with pytest.raises(Interrupt):
        broken.train()
    keep(4)
    resumed = make_runner(
        tmp_path, randomness=dict(seed=99), resume=True, load_from=str(tmp_path / 'cut.pth')
    )
    resumed.train_loop.load_state_dict(state)
    rest = seen_by(resumed)
    first_epoch = torch.cat([b['labeled'][:, 0] for b in broken.model.seen[:4]]).tolist()
    assert sorted(first_epoch) == list(range(10))
    assert resumed.train_loop.state_dict() == state and len(rest) == 8


@pytest.mark.parametrize('batch_size, size, named', [(5, 10, 'batches'), (3, 11, 'images')])
def test_other_batches_than_the_checkpoints_are_refused(tmp_path, batch_size, size, named):
    state = make_runner(tmp_path).train_loop.state_dict()
    other = make_runner(tmp_path, labeled=loader(size, batch_size=batch_size))
    with pytest.raises(ValueError, match=f'cannot resume: train_dataloader has .* {named}'):
        other.train_loop.load_state_dict(state)


def test_without_workers_none_is_persistent(tmp_path):
    assert len(seen_by(make_runner(tmp_path, labeled=loader(workers=0, persistent=True)))) == 12


def test_the_data_set_of_the_loader_behaves_as_before(tmp_path):
    runner = make_runner(tmp_path)
    dataset = runner.train_dataloader.dataset if runner.train_loop else None
    inner = dataset.wrapped
    dataset.offset = 50  # hooks that switch pipelines set attributes
    assert inner.offset == 50 and dataset.metainfo == {} and len(dataset) == 10
    assert dataset[3]['inputs'][0] == 53
    with pytest.raises(AttributeError):
        getattr(dataset, 'nothing')  # noqa: B009


@pytest.mark.parametrize('acting, expected', [('labeled', False), ('both', True)])
def test_unlabeled_images_that_no_link_acts_on_are_not_loaded(tmp_path, acting, expected):
    runner = make_runner(tmp_path, loader(6))
    link = types.SimpleNamespace(spec=types.SimpleNamespace(on=acting, weight=1.0))
    runner.model.links = [link]
    assert ('unlabeled' in seen_by(runner)[0]) == expected


# ---------------------------------------------------------------- views


def draws_by_pass(seen, size):
    """Return for each pass what each sample drew."""
    rows = torch.cat([batches['labeled'] for batches in seen])
    return [
        {int(row[0]): tuple(row[1:].tolist()) for row in rows[start : start + size]}
        for start in range(0, len(rows), size)
    ]


@pytest.mark.parametrize(
    'loop, options',
    [
        (dict(type='mmkd.ResumableTrainLoop', max_epochs=4), {}),
        (dict(type='mmkd.ResumableIterTrainLoop', max_iters=8), dict(batch_size=5)),
        (
            dict(type='mmkd.ResumableIterTrainLoop', max_iters=8),
            dict(batch_size=5, sampler=dict(type='InfiniteSampler', shuffle=True)),
        ),
    ],
)
def test_a_number_of_views_returns(tmp_path, loop, options):
    runner = make_runner(tmp_path, labeled=loader(**options), loop=dict(loop, views=2))
    passes = draws_by_pass(seen_by(runner), 10)
    assert len(passes) == 4 and all(len(one) == 10 for one in passes)
    assert passes[0] == passes[2] and passes[1] == passes[3]
    drawn = [*passes[0].values(), *passes[1].values()]
    assert len(set(drawn)) == 20


def test_a_run_with_other_views_cannot_go_on(tmp_path):
    loop = dict(type='mmkd.ResumableTrainLoop', max_epochs=3, views=2)
    state = make_runner(tmp_path, loop=loop).train_loop.state_dict()
    other = make_runner(tmp_path, loop=dict(loop, views=3)).train_loop
    with pytest.raises(ValueError, match='train_cfg.views: expected 2, as in the checkpoint, got'):
        other.load_state_dict(state)


def test_views_are_a_number(tmp_path):
    runner = make_runner(tmp_path, loop=dict(type='mmkd.ResumableTrainLoop', max_epochs=1, views=0))
    with pytest.raises(ValueError, match='train_cfg.views: expected an integer'):
        runner.train_loop.run()
