from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class StageHook:
    """Forward hook that mixes a stage's output, while a member runs and where its run is repeated.

    Under an activation checkpoint around the stage (`activation_checkpointing=['...backbone']`) the
    stage runs once more in the backward pass, long after the member's forward pass. The hook stays
    on until the next step for that. Other runs of the stage, as in a validation, are left alone.

    Args:
        blend: Mixes what the stage gives.
        place: Where the stage stands in the config, for messages.
    """

    def __init__(self, blend: Callable[[Any], Any] | None, place: str) -> None:
        self.blend, self.place = blend, place
        self.enabled = blend is not None
        self.runs = 0
        self.other_runs = 0

    def __deepcopy__(self, memo: dict) -> StageHook:
        return StageHook(None, self.place)  # a copy belongs to no step

    def __call__(self, module: nn.Module, args: tuple, output: Any) -> Any:
        """Return the stage's output, mixed where it is to be."""
        if self.blend is None:
            return output
        if self.enabled:
            self.runs += 1
            return self._mixed(output, self.blend)
        if torch._C._current_graph_task_id() < 0:  # not in a backward pass
            self.other_runs += module.training
            return output
        if self.other_runs:
            raise RuntimeError(
                f'{self.place} lies inside an activation checkpoint and runs on other images too, '
                'which cannot be told apart when they are run again for the backward pass: '
                'checkpoint the stages themselves, or set depths=(0, )'
            )
        return self._mixed(output, self.blend)

    def _mixed(self, output: Any, blend: Callable[[Any], Any]) -> Any:
        mixed = blend(output)
        if all(new is old for new, old in zip(_items(mixed), _items(output))):
            raise RuntimeError(
                f'{self.place} gives {type(output).__name__}, expected a tensor with an entry per '
                'image, or a tuple or list of such'
            )
        return mixed


def _items(value: Any) -> Any:
    return value if isinstance(value, (tuple, list)) else [value]
