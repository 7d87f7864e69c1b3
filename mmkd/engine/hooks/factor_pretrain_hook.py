import random
from contextlib import contextmanager

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import OPTIMIZERS
from mmengine.runner import Runner

from mmkd.models.connectors import FactorAutoEncoder
from mmkd.registry import HOOKS
from mmkd.utils.errors import ConfigError


@HOOKS.register_module()
class FactorPretrainHook(Hook):
    """Train the links' `FactorAutoEncoder`s on their frozen sources before the first epoch, then freeze them.

    The first stage of IE-KD (arXiv 2107.00181): L1 distance of map and rebuilt map. It reads the training set through its own
    loader (the same pipeline and batch size, without the preprocessor's batch augmentations) and leaves all random states as
    they were. The weights are in the checkpoint: a resumed run does not repeat it. Several processes average their gradients.

    Args:
        epochs (int): Default: 30, the authors'.
        optimizer (dict, optional): Default: SGD with lr 0.1 (the authors'), momentum 0.9 and weight decay 5e-4 (mmkd's choice).
        max_iters (int, optional): End after so many iterations, for trials. Default: no end but `epochs`.
    """

    def __init__(self, epochs=30, optimizer=None, max_iters=None):
        for name, value in (('epochs', epochs), ('max_iters', max_iters)):
            if (value is not None or name == 'epochs') and (
                not isinstance(value, int) or value < 1
            ):
                raise ConfigError(f'FactorPretrainHook.{name}: expected 1 or more, got {value!r}')
        self.epochs, self.max_iters = epochs, max_iters
        self.optimizer = dict(
            optimizer or dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=5e-4)
        )

    def before_train(self, runner):
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        jobs = list(self._jobs(model))
        if not jobs:
            return
        loader = self._loader(runner)
        encoders = [encoder for _, _, _, encoder in jobs]
        with _kept_random_states():
            for encoder in encoders:
                encoder.learn(True)
            parameters = [p for encoder in encoders for p in encoder.parameters()]
            optimizer = OPTIMIZERS.build(dict(self.optimizer, params=parameters))
            done = 0
            for epoch in range(self.epochs):
                loader.sampler.set_epoch(epoch)
                sums, count = [0] * len(jobs), 0
                for batch in loader:
                    losses = self._losses(model, jobs, batch)
                    optimizer.zero_grad()
                    sum(losses).backward()
                    if get_world_size() > 1:
                        for p in parameters:
                            all_reduce(p.grad, 'mean')
                    optimizer.step()
                    sums, count = [s + loss.detach() for s, loss in zip(sums, losses)], count + 1
                    if count + done == self.max_iters:
                        break
                done += count
                said = ', '.join(
                    f'{link.target} <- {link.source}.{link.source_tap}{level}: {(s / count).item():.4f}'
                    for s, (link, _, level, _) in zip(sums, jobs)
                )
                runner.logger.info(f'Factors, epoch {epoch + 1}/{self.epochs}: L1 of {said}')
                if done == self.max_iters:
                    break
            for encoder in encoders:
                for buffer in encoder.buffers():
                    broadcast(buffer)  # each process has its own running statistics
                encoder.trained.fill_(True)
                encoder.learn(False)

    @staticmethod
    def _jobs(model):
        """Yield link, level's index, its name and auto-encoder for each that is to be trained."""
        for link, module in model.links:
            for index, chain in enumerate(module.source_connectors):
                chain = list(chain) if isinstance(chain, torch.nn.ModuleList) else [chain]
                for place, encoder in enumerate(chain):
                    if (
                        not isinstance(encoder, FactorAutoEncoder)
                        or encoder.joint
                        or encoder.trained
                    ):
                        continue
                    if place:
                        raise ConfigError(
                            f'{link.key}.source_connector[{place}]: FactorPretrainHook trains a FactorAutoEncoder that '
                            'stands first in its chain'
                        )
                    yield (
                        link,
                        index,
                        f'[{index}]' if len(module.source_connectors) > 1 else '',
                        encoder,
                    )

    @staticmethod
    def _losses(model, jobs, batch):
        data = model.data_preprocessor(batch, False)
        values = model.read_taps(
            data['inputs'], data['data_samples'], {link.source for link, _, _, _ in jobs}
        )
        losses = []
        for link, index, _, encoder in jobs:
            value = values[link.source, link.source_tap]
            _, terms = encoder(value[index] if isinstance(value, list) else value)
            losses.append(terms['reconstruction'])
        return losses

    @staticmethod
    def _loader(runner):
        cfg = dict(
            runner.cfg.train_dataloader,
            dataset=runner.train_dataloader.dataset,
            drop_last=True,
            persistent_workers=False,
            sampler=dict(type='DefaultSampler', shuffle=True),
        )
        cfg.pop('batch_sampler', None)
        loader = Runner.build_dataloader(cfg, seed=runner.seed)
        if len(loader) == 0:
            raise ConfigError(
                f'FactorPretrainHook: the training set has fewer images than a batch of {cfg["batch_size"]}'
            )
        return loader


@contextmanager
def _kept_random_states():
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
