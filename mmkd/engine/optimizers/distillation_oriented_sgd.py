from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from mmengine.dist import all_reduce, all_reduce_params, get_world_size
from torch import Tensor, nn
from torch.optim import SGD

from mmkd.registry import OPTIMIZERS
from mmkd.utils.checks import check_number
from mmkd.utils.errors import ConfigError

BUCKET_MB = 25  # of gradients that are averaged at once: DistributedDataParallel's default
SHARE = 'distillation_grad'  # a parameter's attribute: the links' part of its `grad`


@OPTIMIZERS.register_module()
class DistillationOrientedSGD(SGD):
    """SGD with a momentum of its own for the links' gradient (DOT, arXiv 2307.08436, ICCV 2023).

        v_task = (momentum - delta) v_task + g_task + weight_decay w
        v_kd   = (momentum + delta) v_kd + g_kd
        w      = w - lr (v_task + v_kd)

    g_kd is the gradient of the links' terms with their factors, g_task the rest: that of the
    member's own loss. A parameter that no link reaches in a step (a muted link, layers behind the
    tap, connectors) has the plain `momentum` for its whole gradient, as in the authors' code; that
    v_kd then starts again is mmkd's choice. A gradient clip scales both parts alike.

    It costs one more backward pass through the member a step, down to its first layer.
    `MemberOptimWrapper` does it and gives each parameter the links' part of its gradient. An
    exported config has plain SGD.

    Args:
        params: Parameters or groups.
        lr: Learning rate.
        momentum: Default: 0.9, the authors'.
        delta: Default: 0.075, the authors' for CIFAR-100 and Tiny-ImageNet; for ImageNet they have
            0.09.
        weight_decay: Default: 0.

    Raises:
        ConfigError: Unless 0 <= delta <= momentum and momentum + delta < 1.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float = 0.9,
        delta: float = 0.075,
        weight_decay: float = 0.0,
    ) -> None:
        check_number(momentum, 'momentum', 0, 1)
        check_number(delta, 'delta', 0, 1)
        if delta > momentum or momentum + delta >= 1:
            raise ConfigError(
                f'delta: expected momentum - delta >= 0 and momentum + delta < 1, got {delta} with '
                f'momentum={momentum}'
            )
        super().__init__(params, lr=lr, momentum=momentum, weight_decay=weight_decay)
        self.defaults['delta'] = delta
        for group in self.param_groups:
            group.setdefault('delta', delta)
        self._norm: Tensor | None = None

    def remember_norm(self) -> None:
        """Note the gradients' size, so that a clip or unscaling of `grad` reaches its part, too."""
        self._norm = _norm(self)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update the parameters.

        Args:
            closure: Not supported.
        """
        if closure is not None:
            raise ValueError('DistillationOrientedSGD takes no closure')
        factor: Any = 1.0
        if self._norm is not None:
            factor = torch.where(self._norm > 0, _norm(self) / self._norm, 1.0)
            self._norm = None
        for group in self.param_groups:
            whole = [p for p in group['params'] if p.grad is not None]
            split = [p for p in whole if getattr(p, SHARE, None) is not None]
            alone = [p for p in whole if getattr(p, SHARE, None) is None]
            momentum, delta = group['momentum'], group['delta']
            shares = [getattr(p, SHARE) * factor for p in split]
            tasks = [p.grad - share for p, share in zip(split, shares)]
            self._move(split, tasks, group, momentum - delta, group['weight_decay'])
            self._move(split, shares, group, momentum + delta, 0.0, 'distillation_buffer')
            self._move(alone, [p.grad for p in alone], group, momentum, group['weight_decay'])
            for p in alone:
                self.state[p].pop('distillation_buffer', None)

    def _move(
        self,
        parameters: Sequence[Tensor],
        gradients: Sequence[Tensor],
        group: dict[str, Any],
        momentum: float,
        weight_decay: float,
        key: str = 'momentum_buffer',
    ) -> None:
        if not parameters:
            return
        gradients = list(gradients)
        if weight_decay:
            gradients = list(torch._foreach_add(gradients, list(parameters), alpha=weight_decay))
        if momentum:
            for p, gradient in zip(parameters, gradients):
                if self.state[p].get(key) is None:
                    self.state[p][key] = torch.zeros_like(gradient)
            buffers = [self.state[p][key] for p in parameters]
            torch._foreach_mul_(buffers, momentum)
            torch._foreach_add_(buffers, gradients)
            gradients = buffers
        torch._foreach_add_(list(parameters), gradients, alpha=-group['lr'])

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients and the links' parts of them."""
        super().zero_grad(set_to_none)
        for group in self.param_groups:
            for p in group['params']:
                setattr(p, SHARE, None)


def _norm(optimizer: SGD) -> Tensor:
    gradients = [p.grad for g in optimizer.param_groups for p in g['params'] if p.grad is not None]
    return torch.stack([x.float() for x in torch._foreach_norm(gradients)]).norm()


def add_distillation_gradient(loss: Tensor, parameters: Sequence[nn.Parameter]) -> None:
    """Add the gradient of the links' terms to the parameters' parts; the graph is kept."""
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients):
        if gradient is not None:
            before = getattr(parameter, SHARE, None)
            setattr(parameter, SHARE, gradient if before is None else before + gradient)


def average_gradients(parameters: Sequence[nn.Parameter], attribute: str = 'grad') -> None:
    """Average gradients over all ranks, as DistributedDataParallel does with `grad`.

    Args:
        parameters: Those that no rank has a gradient of are left as they are.
        attribute: Where a parameter has its gradient.
    """
    if get_world_size() == 1 or not parameters:
        return
    parts = [getattr(parameter, attribute, None) for parameter in parameters]
    # A link whose terms are not finite on one rank reaches no parameter there.
    reached = torch.tensor([float(part is not None) for part in parts]).to(parameters[0].device)
    all_reduce(reached, 'max')
    for (parameter, part), flag in zip(zip(parameters, parts), reached.tolist()):
        if flag and part is None:
            setattr(parameter, attribute, torch.zeros_like(parameter))
    reduced = [getattr(p, attribute) for p, flag in zip(parameters, reached.tolist()) if flag]
    all_reduce_params(reduced, bucket_size_mb=BUCKET_MB, op='mean')
