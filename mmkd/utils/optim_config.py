"""How a member changes the shared `optim_wrapper` config: one rule for training and export."""

import copy
from collections.abc import Mapping
from typing import Any

from mmengine.config import ConfigDict


def member_optim_config(
    shared: Mapping[str, Any], overrides: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Return the `optim_wrapper` config of one member.

    Args:
        shared: The config of all, without `members`.
        overrides: The member's entry in `optim_wrapper.members`. Its `optimizer` adds to the shared
            one unless it names a `type`, and then replaces it; every other value replaces.
    """
    cfg = copy.deepcopy(dict(shared))
    for key, value in copy.deepcopy(dict(overrides or {})).items():
        if key == 'optimizer' and isinstance(value, Mapping) and 'type' not in value:
            cfg[key] = ConfigDict({**cfg[key], **value})
        else:
            cfg[key] = value
    return cfg
