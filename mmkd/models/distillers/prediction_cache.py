from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from mmkd.utils.errors import ConfigError

from .tap import Tap

# Runs a network on images (N, C, H, W) and their samples.
Run = Callable[[Tensor, Any], Any]


class PredictionCache:
    """What a frozen member's taps have read of images, so that it need not run on them again.

    An image is known by an exact hash of its values as the member sees them, so whatever changes it
    (augmentation, mixing, another size of the batch) makes it another one. Values are kept in the
    machine's memory, of each process its own, and are not part of checkpoints: a resumed run
    computes them again.

    Args:
        most_mb: Megabytes to keep at most; the member runs on images beyond.
        key: Where it stands in the config, for messages.
    """

    def __init__(self, most_mb: int, key: str) -> None:
        self.most_mb, self.key = most_mb, key
        self.kept: dict[Any, dict[str, Any]] = {}
        self.bytes = 0
        self.asked = self.found = 0
        self._factors: dict[tuple[int, torch.device], Tensor] = {}
        self._checked: set[tuple[str, ...]] = set()

    def __deepcopy__(self, memo: dict[int, Any]) -> PredictionCache:
        return self  # as frozen networks are: a copy of the distiller asks the same

    def read(self, taps: Sequence[Tap], images: Tensor, samples: Any, run: Run) -> None:
        """Give the recorders of taps what `run` would, and run only on images that are new.

        Args:
            taps: Of the member; their recorders are enabled.
            images: As the member takes them, (N, C, H, W).
            samples: One per image, or None.
            run: Runs the member.

        Raises:
            ConfigError: If a module's output is not one per image.
        """
        paths = tuple(sorted({tap.path for tap in taps}))
        keys = [(paths, tuple(images.shape[1:]), own) for own in self._hashes(images)]
        new = [i for i, key in enumerate(keys) if key not in self.kept]
        self.asked += len(keys)
        self.found += len(keys) - len(new)
        fresh: dict[int, dict[str, Any]] = {}
        if new:
            index = torch.as_tensor(new, device=images.device)
            some = images if len(new) == len(keys) else images.index_select(0, index)
            outputs = self._run(taps, some, _chosen(samples, new), run)
            if paths not in self._checked:
                # What is one per image follows the number of images; layers and levels do not.
                more = [*new, new[0]]
                self._run(taps, images[more], _chosen(samples, more), run)
                self._checked.add(paths)
            for place, i in enumerate(new):
                fresh[i] = {path: _of_image(value, place) for path, value in outputs.items()}
                self._keep(keys[i], fresh[i])
        rows = [fresh[i] if i in fresh else self.kept[key] for i, key in enumerate(keys)]
        for tap in taps:
            parts = [row[tap.path] for row in rows]
            tap.recorder.outputs = [_joined(parts, images.device)]

    def _run(self, taps: Sequence[Tap], images: Tensor, samples: Any, run: Run) -> dict[str, Any]:
        run(images, samples)
        outputs = {}
        for tap in taps:
            outputs[tap.path] = tap.output()
            for tensor in _all_tensors(outputs[tap.path]):
                if not tensor.dim() or len(tensor) != len(images):
                    raise ConfigError(
                        f'{self.key}: what {tap.path!r} returns is not one per image (a tensor of '
                        f'{tuple(tensor.shape)} for {len(images)} images), so it cannot be kept; '
                        'leave cache_mb out'
                    )
        return outputs

    def _keep(self, key: Any, values: dict[str, Any]) -> None:
        size = sum(t.numel() * t.element_size() for t in _all_tensors(values))
        if key in self.kept or self.bytes + size > self.most_mb * 2**20:
            return
        self.kept[key] = _copied(values)
        self.bytes += size

    @torch.no_grad()
    def _hashes(self, images: Tensor) -> list[int]:
        """Return a 64-bit hash of each image: a sum of its words times random odd numbers."""
        words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[images.element_size()]
        flat = images.detach().contiguous().flatten(1).view(words).long()
        place = flat.shape[1], flat.device
        if place not in self._factors:
            generator = torch.Generator().manual_seed(0)
            drawn = torch.randint(2**62, (place[0],), generator=generator) * 2 + 1
            self._factors[place] = drawn.to(flat.device)
        return (flat * self._factors[place]).sum(1).tolist()

    def summary(self) -> str:
        """Return a line on what was found since the last call."""
        asked, found, self.asked, self.found = self.asked, self.found, 0, 0
        return (
            f'{found} of {asked} images were in the cache, which holds {self.bytes / 2**20:.0f} of '
            f'{self.most_mb} MB'
        )


def _chosen(samples: Any, index: Sequence[int]) -> Any:
    return None if samples is None else [samples[i] for i in index]


def _all_tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for item in value for tensor in _all_tensors(item)]
    return []


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, change) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return _like(value, [_mapped(item, change) for item in value])
    return value


def _of_image(value: Any, place: int) -> Any:
    return _mapped(value, lambda tensor: tensor[place].detach())


def _copied(value: Any) -> Any:
    # A slice would keep the tensor of its whole batch.
    return _mapped(value, lambda tensor: tensor.to('cpu', copy=True))


def _joined(parts: Sequence[Any], device: torch.device) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.stack([part.to(device) for part in parts])
    if isinstance(first, dict):
        return {key: _joined([part[key] for part in parts], device) for key in first}
    if isinstance(first, (list, tuple)):
        return _like(first, [_joined(items, device) for items in zip(*parts)])
    return first


def _like(value: Any, items: list[Any]) -> Any:
    named = hasattr(value, '_fields')  # a named tuple takes its items one by one
    return type(value)(*items) if named else type(value)(items)
