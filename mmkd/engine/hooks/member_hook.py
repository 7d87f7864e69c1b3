import random

import numpy as np
import torch
from mmengine.dist import broadcast
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper

from mmkd.registry import HOOKS


@HOOKS.register_module()
class MemberHook(Hook):
    """What an `OnlineDistiller` needs of a Runner: ema members' updates, and random states in checkpoints.

    Runs before mmengine's EMAHook, which then averages updated members. With `persistent_workers=False` (or no workers) a
    resumed run draws what an unbroken one would have drawn: the checkpoint holds torch's, numpy's and Python's random
    states of rank 0, each member's and the mixer's own, and the size that multi-scale resizing has drawn.
    """

    priority = 'ABOVE_NORMAL'
    key = 'mmkd_random_states'

    @staticmethod
    def _distiller(runner):
        return runner.model.module if is_model_wrapper(runner.model) else runner.model

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self._distiller(runner).update_ema_members()

    def before_save_checkpoint(self, runner, checkpoint):
        model = self._distiller(runner)
        # Plain values, so that loading with weights_only works.
        kind, numbers, position, has_gauss, gauss = np.random.get_state()
        checkpoint[self.key] = dict(
            torch=torch.get_rng_state(),
            cuda=torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
            numpy=(kind, torch.from_numpy(numbers.astype(np.int64)), position, has_gauss, gauss),
            python=random.getstate(),
            members={
                name: m.stream.state_dict()
                for name, m in model.specs.items()
                if m.stream is not None
            },
            mixer=None if model.mixer is None else model.mixer.state_dict(),
            sizes=[getattr(augment, '_input_size', None) for augment in self._augments(model)],
        )

    def after_load_checkpoint(self, runner, checkpoint):
        # A resumed Runner draws on (the loader's workers, for one) before training starts: restored in before_train.
        self.states = checkpoint.get(self.key) if runner._resume else None

    def before_train(self, runner):
        for buffer in self._distiller(runner).link_modules.buffers():
            broadcast(buffer)  # a drawn permutation: DDP brings parameters alone to rank 0's
        self._restore(runner)

    def after_skipped_batches(self, runner):
        # The batches that `ResumableTrainLoop` has drawn again have drawn on.
        self._restore(runner)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.states = None

    def _restore(self, runner):
        states = getattr(self, 'states', None)
        if states is None:
            return
        model = self._distiller(runner)
        torch.set_rng_state(states['torch'].cpu())
        if states['cuda'] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(states['cuda'].cpu())
        kind, numbers, *rest = states['numpy']
        np.random.set_state((kind, numbers.cpu().numpy().astype(np.uint32), *rest))
        random.setstate(states['python'])
        for name, state in states['members'].items():
            if name in model.specs and model.specs[name].stream is not None:
                model.specs[name].stream.load_state_dict(state)
        if model.mixer is not None and states.get('mixer') is not None:
            model.mixer.load_state_dict(states['mixer'])
        for augment, size in zip(self._augments(model), states['sizes']):
            if hasattr(augment, '_input_size'):
                augment._input_size = size

    @staticmethod
    def _augments(model):
        return list(getattr(model.data_preprocessor, 'batch_augments', None) or [])
