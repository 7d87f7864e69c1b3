from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mmkd.tasks import TaskMixing
from mmkd.utils.errors import ConfigError
from mmkd.utils.samples import clone_samples

from .base import Mix
from .stage_hook import StageHook


class MetaMix(Mix):
    """What a `MetaMixer` has made of one training step's batch, and its application to the members.

    Args:
        mixing: The task's.
        stages: By member, the module paths of its stages.
        inputs: Images (N, C, H, W) as the members get them.
        data_samples: The images' ground truth, one per image.

    Attributes:
        depth: Stage after which images are mixed globally, 0 for the input; None without.
        lam: Each image's own share in the global mixing; 1 without.
        partners: Index (N,) of the image that is mixed into each one, None without.
        others: The partners' ground truth where the losses are to be mixed of both, else None.
        unchecked: Members whose heads have not yet been seen to compute their losses as expected.
        hooks: Handles of the stages' hooks, removed when the next step begins.
    """

    def __init__(
        self,
        mixing: TaskMixing,
        stages: Mapping[str, Sequence[str]],
        inputs: Tensor,
        data_samples: list[BaseDataElement],
    ) -> None:
        super().__init__(inputs, data_samples)
        self.mixing, self.stages = mixing, stages
        self.depth: int | None = None
        self.lam = 1.0
        self.partners: Tensor | None = None
        self.others: list[BaseDataElement] | None = None
        self.unchecked: set[str] = set()
        self.hooks: list[RemovableHandle] = []

    def __deepcopy__(self, memo: dict) -> MetaMix:
        # A copy belongs to no step and has no hooks.
        return type(self)(self.mixing, self.stages, self.inputs, self.data_samples)

    def blend(self, value: Any) -> Any:
        """Mix each image's part of a value with its partner's, see `blend`."""
        return value if self.partners is None else blend(value, self.partners, self.lam)

    def valid_mask(self, mask: Tensor) -> Tensor:
        """Return which positions (N, 1, H, W) count in both ground truths."""
        return mask if self.partners is None else mask * mask[self.partners]

    @contextmanager
    def applied_to(self, name: str, network: nn.Module) -> Iterator[None]:
        """Mix the member's stage output, and its losses of both ground truths, in the run inside.

        Raises:
            RuntimeError: If the stage's module does not run exactly once.
            ConfigError: If a network in training does not hand its heads' outputs to their losses.
        """
        hook, heads = None, {}
        with ExitStack() as stack:
            if self.depth:
                hook = self._hook(name, network)
            if network.training and (self.others is not None or name in self.unchecked):
                gt = None
                if self.others is not None:
                    gt = self.mixing.gt_arguments(clone_samples(self.others))
                for path, method in self.mixing.loss_methods(network).items():
                    heads[path] = stack.enter_context(
                        _both_losses(network.get_submodule(path), method, gt, self.lam)
                    )
            try:
                yield
            finally:
                if hook is not None:
                    hook.enabled = False
                    if not torch.is_grad_enabled():  # no backward pass computes the stage again
                        self.hooks.pop().remove()
        if hook is not None and hook.runs != 1:
            raise RuntimeError(
                f'{hook.place} ran {hook.runs} times in one forward pass; a stage is a module that '
                'runs once'
            )
        for path, calls in heads.items():
            if not calls:
                raise ConfigError(
                    f'model.mixer: the loss of {name!r} cannot be mixed: {path!r} '
                    f'({type(network.get_submodule(path)).__name__}) does not compute it by '
                    f'{self.mixing.loss_methods(network)[path]!r}; set global_prob=0'
                )
        self.unchecked.discard(name)

    def _hook(self, name: str, network: nn.Module) -> StageHook:
        assert self.depth is not None and self.partners is not None
        path = self.stages[name][self.depth - 1]
        mix = partial(blend, partners=self.partners, lam=self.lam)
        hook = StageHook(mix, f'model.mixer.stages.{name}: {path!r}')
        # First, so that taps on the same module read the mixed output.
        module = network.get_submodule(path)
        self.hooks.append(module.register_forward_hook(hook, prepend=True))
        return hook

    def close(self) -> None:
        """Remove the stages' hooks."""
        while self.hooks:
            self.hooks.pop().remove()


def blend(value: Any, partners: Tensor, lam: float) -> Any:
    """Mix each image's part of a tensor (N, ...), or of a tuple's or list's, with its partner's.

    Args:
        value: Anything but a floating-point tensor with N images (a size) is left as it is.
        partners: Index (N,) of the image that is mixed into each one.
        lam: Each image's own share.
    """
    if isinstance(value, (tuple, list)):
        return type(value)([blend(item, partners, lam) for item in value])
    if (
        not isinstance(value, Tensor)
        or not value.is_floating_point()
        or len(value) != len(partners)
    ):
        return value
    return lam * value + (1 - lam) * value[partners]


@contextmanager
def _both_losses(
    head: nn.Module, method: str, gt: Mapping[str, Any] | None, lam: float
) -> Iterator[list[str]]:
    """Make `head.method` return lam times its losses and (1 - lam) times those of `gt`.

    Without `gt` its losses stay as they are. Yields the list of its calls.
    """
    original, calls = getattr(head, method), []
    own = vars(head).get(method)  # an override of this very head
    signature = inspect.signature(original)

    def both(*args: Any, **kwargs: Any) -> dict[str, Any]:
        calls.append(method)
        losses = original(*args, **kwargs)
        if gt is None:
            return losses
        bound = signature.bind(*args, **kwargs)
        bound.arguments.update(
            {key: value for key, value in gt.items() if key in signature.parameters}
        )
        return mix_losses(losses, original(*bound.args, **bound.kwargs), lam)

    setattr(head, method, both)
    try:
        yield calls
    finally:
        if own is None:
            delattr(head, method)
        else:
            setattr(head, method, own)


def mix_losses(first: Mapping[str, Any], second: Mapping[str, Any], lam: float) -> dict[str, Any]:
    """Return lam times `first`'s losses plus (1 - lam) times `second`'s.

    Args:
        first: Tensors or lists of tensors. What is no loss (accuracies) is taken from here.
        second: The same keys.
        lam: Share of `first`.
    """

    def mixed(a: Any, b: Any) -> Any:
        if isinstance(a, (list, tuple)):
            return [mixed(x, y) for x, y in zip(a, b)]
        return lam * a + (1 - lam) * b

    return {
        key: mixed(value, second[key]) if 'loss' in key else value for key, value in first.items()
    }


def takes_gt(head: nn.Module, method: str, argument: str) -> bool:
    """Whether `head` has a loss method that takes the ground truth as `argument`."""
    return argument in inspect.signature(getattr(head, method, lambda: None)).parameters
