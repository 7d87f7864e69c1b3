"""Cost of one joint training step against the members' plain steps, in one run."""

import resource
import statistics
import time

import torch
from mmengine.logging import MMLogger
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import Runner, set_random_seed

from mmkd.apis.command_line import merge_options, read_config
from mmkd.export import member_plans, plain_config


def cached_batches(cfg, count):
    """Return the first `count` batches of the config's training data, loaded once."""
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False)
    loader = Runner.build_dataloader(cfg.train_dataloader, seed=0)
    batches = []
    while len(batches) < count:
        for batch in loader:
            batches.append(batch)
            if len(batches) == count:
                break
    return batches


def copy_batch(batch):
    """Copy what a training step may change: the list of images and the data samples."""
    return dict(
        batch,
        inputs=list(batch['inputs']),
        data_samples=[sample.clone() for sample in batch['data_samples']],
    )


class Step:
    """A model with its optimisers, as the config has them, at full sharing (progress 1)."""

    def __init__(self, cfg, device):
        set_random_seed(0)
        self.model = MODELS.build(cfg.model).to(device)
        self.model.init_weights()
        if hasattr(self.model, 'specs'):
            self.model.progress = 1.0
        self.optim_wrapper = build_optim_wrapper(self.model, cfg.optim_wrapper)
        self.model.train()

    def __call__(self, batch):
        """Take a step; returns its seconds."""
        self._wait()
        start = time.perf_counter()
        self.model.train_step(batch, self.optim_wrapper)
        self._wait()
        return time.perf_counter() - start

    @staticmethod
    def _wait():
        if torch.cuda.is_available():
            torch.cuda.synchronize()


def prepare(config_file, options):
    """Load a config for measuring: quiet, in its scope."""
    if not MMLogger.check_instance_created('mmkd-benchmark'):
        MMLogger.get_instance('mmkd-benchmark', log_level='ERROR')
    cfg = merge_options(read_config(config_file), options)
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    return cfg


def online_members(cfg):
    """list[str]: Members that a plain training could train."""
    return [name for name, plan in member_plans(cfg).items() if plan.training == 'online']


def measure_time(config_file, options, steps, device):
    """Alternate the joint step and each member's plain step on the same batches.

    Returns:
        dict[str, float]: Median seconds: `joint`, and by member.
    """
    cfg = prepare(config_file, options)
    batches = cached_batches(cfg, min(steps, 8))
    subjects = {'joint': Step(cfg, device)}
    subjects.update({name: Step(plain_config(cfg, name), device) for name in online_members(cfg)})
    seconds = {name: [] for name in subjects}
    for index in range(steps + 2):
        for name, step in subjects.items():
            spent = step(copy_batch(batches[index % len(batches)]))
            if index >= 2:  # the first ones allocate
                seconds[name].append(spent)
    return {name: statistics.median(values) for name, values in seconds.items()}


def measure_memory(config_file, options, subject, device):
    """Peak memory of a few steps of `subject` (`joint` or a member), in MiB; for a process of its own.

    On a GPU torch's peak of allocated bytes; else growth of the process's resident peak over what it has before the model
    is built.
    """
    cfg = prepare(config_file, options)
    batches = cached_batches(cfg, 3)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    step = Step(cfg if subject == 'joint' else plain_config(cfg, subject), device)
    for batch in batches:
        step(copy_batch(batch))
    if device == 'cuda':
        return torch.cuda.max_memory_allocated() / 2**20
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 2**10
