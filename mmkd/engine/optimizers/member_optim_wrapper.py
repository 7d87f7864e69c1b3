from contextlib import contextmanager

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.optim import OptimWrapperDict
from mmengine.runner.amp import autocast

from mmkd.utils.errors import ConfigError


class MemberOptimWrapper(OptimWrapperDict):
    """An optimiser, gradient clip and loss scale for each member; one backward pass for all.

    A member whose gradients are not finite skips its step alone; the log says which member and which terms. All ranks of a
    distributed run see the same reduced gradients, so they skip alike.

    Args:
        autocast_dtype (torch.dtype, optional): Autocast without loss scaling (bf16 on CPU); with `AmpOptimWrapper`s the
            type is theirs.
        max_skips (int): So many steps that one member skips in a row end the training. Default: 50, mmkd's choice.
        **wrappers (OptimWrapper): By member, all with the same `accumulative_counts`.
    """

    def __init__(self, autocast_dtype=None, max_skips=50, **wrappers):
        super().__init__(**wrappers)
        self.max_skips, self.skips = max_skips, dict.fromkeys(wrappers, 0)
        self.autocast_dtype = autocast_dtype
        self.first = next(iter(wrappers.values()))

    @contextmanager
    def optim_context(self, model):
        """Autocast, and no gradient synchronisation while gradients accumulate."""
        with self.first.optim_context(model):
            if self.autocast_dtype is None:
                yield
            else:
                with autocast(dtype=self.autocast_dtype):
                    yield

    def should_update(self):
        return self.first.should_update()

    def initialize_count_status(self, model, init_counts, max_counts):
        for wrapper in self.values():
            wrapper.initialize_count_status(model, init_counts, max_counts)

    def update_params(self, loss, step_kwargs=None, zero_kwargs=None):
        """Backward, then each member's own step (every `accumulative_counts` calls).

        Args:
            loss (MemberLosses): Each member's loss, from `OnlineDistiller.parse_losses`.
        """
        if set(loss) != set(self.keys()):
            raise ConfigError(
                f'losses of the members {sorted(loss)} for the optimisers of {sorted(self.keys())}'
            )
        scaled = []
        for name, wrapper in self.items():
            value = wrapper.scale_loss(loss[name])
            scaler = getattr(wrapper, 'loss_scaler', None)
            scaled.append(value if scaler is None else scaler.scale(value))
        sum(scaled).backward()
        for wrapper in self.values():
            wrapper._inner_count += 1
        if not self.should_update():
            return
        finite = self._finite()
        for name, wrapper in self.items():
            scaler = getattr(wrapper, 'loss_scaler', None)
            skipped = not finite[name]
            if scaler is not None:
                before = scaler.get_scale()
                wrapper.step(**(step_kwargs or {}))
                skipped = scaler.get_scale() < before
                if skipped:
                    self._report(name, loss, f'loss scale {before:g} -> {scaler.get_scale():g}')
            elif skipped:
                self._report(name, loss, 'its weights and optimiser state are unchanged')
            else:
                wrapper.step(**(step_kwargs or {}))
            wrapper.zero_grad(**(zero_kwargs or {}))
            self.skips[name] = self.skips[name] + 1 if skipped else 0
        stuck = [name for name, count in self.skips.items() if count >= self.max_skips]
        if stuck:
            raise FloatingPointError(
                f'{", ".join(stuck)}: {self.max_skips} steps in a row with gradients that are not finite '
                '(optim_wrapper.max_skips); lower the learning rate, or look at the terms named above'
            )

    def _finite(self):
        """dict[str, bool]: Whether all gradients of each member without a loss scaler are finite; one device read."""
        names, norms = [], []
        for name, wrapper in self.items():
            if getattr(wrapper, 'loss_scaler', None) is None:
                grads = [
                    p.grad
                    for group in wrapper.optimizer.param_groups
                    for p in group['params']
                    if p.grad is not None
                ]
                if grads:
                    names.append(name)
                    norms.append(torch.stack([n.float() for n in torch._foreach_norm(grads)]).sum())
        flags = dict.fromkeys(self.keys(), True)
        if norms:
            flags.update(
                zip(
                    names,
                    torch.stack([n.cpu() if n.device != norms[0].device else n for n in norms])
                    .isfinite()
                    .tolist(),
                )
            )
        return flags

    @staticmethod
    def _report(name, loss, consequence):
        bad = [
            key
            for key, value in loss.terms.items()
            if key.startswith(f'{name}/') and not torch.isfinite(value).all()
        ]
        why = (
            f'terms not finite: {", ".join(bad)}'
            if bad
            else 'its terms are finite, its gradients are not'
        )
        step = MessageHub.get_current_instance().get_info('iter', 0) + 1
        print_log(
            f'{name}: step skipped at iteration {step}, gradients not finite ({why}); {consequence}',
            logger='current',
            level=30,
        )
