from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.logging import MessageHub, print_log
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner.amp import autocast
from torch import Tensor, nn

from mmkd.utils.buffers import KeptBuffers
from mmkd.utils.checks import choose
from mmkd.utils.errors import ConfigError

from .distillation_oriented_sgd import (
    SHARE,
    DistillationOrientedSGD,
    add_distillation_gradient,
    average_gradients,
)


class MemberOptimWrapper(OptimWrapperDict):
    """An optimizer, gradient clip and loss scale for each member; one backward pass for all.

    A member whose gradients are not finite skips its step alone: its weights, optimizer state and
    buffers (running statistics) are those before the step. The log says which member and which
    terms. All ranks of a distributed run see the same reduced gradients, so they skip alike.

    Args:
        autocast_dtype: Autocast without loss scaling (bf16 on CPU); with `AmpOptimWrapper`s the
            type is theirs.
        max_skips: Stop training after a member has skipped this many consecutive steps. Default:
            50, mmkd's choice.
        modules: By member, what it trains, whose buffers are kept. Default: none.
        **wrappers: By member, all with the same `accumulative_counts`.
    """

    def __init__(
        self,
        autocast_dtype: torch.dtype | None = None,
        max_skips: int = 50,
        modules: Mapping[str, nn.Module] | None = None,
        **wrappers: OptimWrapper,
    ) -> None:
        super().__init__(**wrappers)
        self.max_skips, self.skips = max_skips, dict.fromkeys(wrappers, 0)
        self.skipped: list[str] = []  # in the last step
        self.autocast_dtype = autocast_dtype
        self.first = next(iter(wrappers.values()))
        self.buffers = {name: KeptBuffers(module) for name, module in (modules or {}).items()}
        # Of members with DOT: the network's own parameters, whose gradient has two parts.
        self.split = {
            name: [
                parameter
                for key, parameter in module.named_parameters()
                if parameter.requires_grad and not key.startswith('links.')
            ]
            for name, module in (modules or {}).items()
            if isinstance(wrappers[name].optimizer, DistillationOrientedSGD)
        }
        self._starts = True

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Autocast, and no gradient synchronization while gradients accumulate."""
        if self._starts:
            for buffers in self.buffers.values():
                buffers.keep()
            self._starts = False
        with self.first.optim_context(model):
            if self.autocast_dtype is None:
                yield
            else:
                with autocast(dtype=self.autocast_dtype):
                    yield

    @property
    def accumulative_counts(self) -> int:
        """Iterations of an optimizer step, of all members alike."""
        return int(self.first._accumulative_counts)

    def should_update(self) -> bool:
        """Whether the optimizers step in the iteration that is running, or have just stepped."""
        return self.first.should_update()

    def initialize_count_status(self, model: nn.Module, init_counts: int, max_counts: int) -> None:
        """Start counting iterations."""
        for wrapper in self.values():
            wrapper.initialize_count_status(model, init_counts, max_counts)

    def update_params(
        self,
        loss: dict[str, Tensor],
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Backward, then each member's own step (every `accumulative_counts` calls).

        Args:
            loss: Each member's loss, from `OnlineDistiller.parse_losses` (`MemberLosses`).
            step_kwargs: For the optimizers' `step`.
            zero_kwargs: For the optimizers' `zero_grad`.

        Raises:
            ConfigError: If the losses are not those of the members that have an optimizer.
            FloatingPointError: If a member has skipped too many steps in a row.
        """
        if set(loss) != set(self.keys()):
            raise ConfigError(
                f'losses of the members {sorted(loss)} for the optimizers of {sorted(self.keys())}'
            )
        self.backward(loss)
        self.update_after_backward(loss, step_kwargs, zero_kwargs)

    def backward(self, loss: dict[str, Tensor], average: bool = False) -> None:
        """Add the gradients of the losses of some members.

        Args:
            loss: By member, from `OnlineDistiller.parse_losses`.
            average: Whether to average these members' gradients over all ranks, in the iteration
                before a step; else a `DistributedDataParallel` around the model does.
        """
        scaled = [self._scaled(name, value) for name, value in loss.items()]
        self._split_gradients(loss)
        sum(scaled[1:], scaled[0]).backward()
        if average and self.first.should_sync():
            for name in loss:
                groups = self[name].optimizer.param_groups
                average_gradients([p for group in groups for p in group['params']])

    def update_after_backward(
        self,
        loss: dict[str, Tensor],
        step_kwargs: dict[str, Any] | None = None,
        zero_kwargs: dict[str, Any] | None = None,
    ) -> None:
        """Take each member's own step (every `accumulative_counts` calls).

        Args:
            loss: All members' losses, whose gradients `backward` has added.
            step_kwargs: For the optimizers' `step`.
            zero_kwargs: For the optimizers' `zero_grad`.

        Raises:
            FloatingPointError: If a member has skipped too many steps in a row.
        """
        for wrapper in self.values():
            wrapper._inner_count += 1
        self.skipped = []
        if self.should_update():
            self._step(loss, step_kwargs or {}, zero_kwargs or {})
            self._starts = True

    def _scaled(self, name: str, value: Tensor) -> Tensor:
        value = self[name].scale_loss(value)
        scaler = getattr(self[name], 'loss_scaler', None)
        return value if scaler is None else scaler.scale(value)

    def _split_gradients(self, loss: Any) -> None:
        """Take the links' part of the gradients of members with DOT, in a backward pass before."""
        shared = []
        split = [name for name in self.split if name in loss]
        for name in split:
            terms = [term for term in loss.shared[name] if term.requires_grad]
            if terms:
                shared.append(self._scaled(name, sum(terms[1:], terms[0])))
        if shared:
            parameters = [p for name in split for p in self.split[name]]
            add_distillation_gradient(sum(shared[1:], shared[0]), parameters)

    def _step(self, loss: Any, step_kwargs: dict[str, Any], zero_kwargs: dict[str, Any]) -> None:
        finite = self._finite()
        for name, parameters in self.split.items():
            average_gradients(parameters, SHARE)
            self[name].optimizer.remember_norm()
        for name, wrapper in self.items():
            scaler = getattr(wrapper, 'loss_scaler', None)
            consequence = 'its weights and optimizer state are unchanged'
            if scaler is not None:
                before = scaler.get_scale()
                wrapper.step(**step_kwargs)  # the scaler skips by itself, and adapts
                consequence += f', loss scale {before:g} -> {scaler.get_scale():g}'
            elif finite[name]:
                wrapper.step(**step_kwargs)
            wrapper.zero_grad(**zero_kwargs)
            self.skips[name] = 0 if finite[name] else self.skips[name] + 1
            if not finite[name]:
                self.skipped.append(name)
                self._report(name, loss, consequence)
                if name in self.buffers:
                    self.buffers[name].restore()
        stuck = [name for name, count in self.skips.items() if count >= self.max_skips]
        if stuck:
            raise FloatingPointError(
                f'{", ".join(stuck)}: {self.max_skips} steps in a row with gradients that are not '
                'finite (optim_wrapper.max_skips); lower the learning rate, or look at the terms '
                'named above'
            )

    def _finite(self) -> dict[str, bool]:
        """Return by member whether all its gradients are finite; one device read."""
        flags = dict.fromkeys(self.keys(), True)
        norms = {}
        for name, wrapper in self.items():
            groups = wrapper.optimizer.param_groups
            grads = [p.grad for group in groups for p in group['params'] if p.grad is not None]
            if grads:
                each = torch._foreach_norm(grads)
                norms[name] = torch.stack([norm.float() for norm in each]).sum()
        if norms:
            device = next(iter(norms.values())).device
            total = torch.stack([norm.to(device) for norm in norms.values()])
            flags.update(zip(norms, total.isfinite().tolist()))
        return flags

    @staticmethod
    def _report(name: str, loss: Any, consequence: str) -> None:
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
            f'{name}: step skipped at iteration {step}, gradients not finite ({why}); '
            f'{consequence}',
            logger='current',
            level=30,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the members' optimizer states from a checkpoint.

        Raises:
            ConfigError: If they are of other members, or of another kind of optimizer.
        """
        for name, state in state_dict.items():
            key = f'cannot resume: optim_wrapper of {name!r}'
            wrapper = self[choose(name, self.keys(), 'cannot resume: optimizer states of')]
            saved = state['param_groups'][0]
            own = wrapper.optimizer.param_groups[0]
            expected = set(wrapper.optimizer.defaults)
            if not expected <= set(saved) and set(saved) - expected - set(own) - {'initial_lr'}:
                raise ConfigError(
                    f'{key}: the checkpoint is of another optimizer than '
                    f'{type(wrapper.optimizer).__name__}: its options are {sorted(saved)}'
                )
            rates = [group.get('initial_lr', group['lr']) for group in (own, saved)]
            if rates[0] != rates[1]:
                print_log(
                    f"{name}: goes on with the checkpoint's learning rate {rates[1]:g}; the "
                    f"config's {rates[0]:g} has no effect on a resumed run",
                    logger='current',
                    level=30,
                )
            try:
                wrapper.load_state_dict(state)
            except (KeyError, ValueError) as error:
                raise ConfigError(f'{key}: {error}') from error
