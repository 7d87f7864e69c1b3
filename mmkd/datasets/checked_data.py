"""What mmkd's data sets share: checks while an item is loaded, and a cache of its first steps."""

import copy
from collections.abc import Callable
from itertools import takewhile
from typing import Any, ClassVar

from mmkd.utils.checks import check_integer
from mmkd.utils.errors import ConfigError

from .step_cache import StepCache
from .unreadable import check_files, load_whole

# Steps whose result depends on the item alone, beside those whose name begins with `Load`.
DETERMINISTIC = ('Resize', 'ResizeEdge', 'Pad', 'CenterCrop')


def _is_deterministic(name: str) -> bool:
    return name.startswith('Load') or name in DETERMINISTIC


class CheckedData:
    """Mixin of mmkd's data sets, before the toolbox's class.

    Each file of an item is read once. An image file that cannot be used ends the run with an
    `UnreadableImage` that names it, and `check_step` sees the item after each step.

    Args:
        *args: Arguments of the toolbox's data set.
        cache_prefix: Number of steps at the beginning of the pipeline whose result is kept in
            memory, so that later epochs neither read nor decode the files. They must be
            deterministic (`Load...`, `Resize`, `Pad` and the like); the steps after them work on a
            copy, so that the items are the same with and without the cache. Memory: an item's
            arrays after these steps, for instance 0.2 MB for an image of 256 x 256 pixels (0.26 MB
            with its label map), that is 0.2 GB per 1,000 images, in every worker process. A
            worker's cache is lost when the worker ends: use `num_workers=0` or
            `persistent_workers=True`. Default: 0 (no cache; with `cache_folder` all leading steps
            that can be kept).
        cache_folder: Keep the results in files in this folder instead, once for all workers and for
            later runs (`StepCache`). Default: none.
        **kwargs: Arguments of the toolbox's data set.

    Raises:
        ConfigError: If `cache_prefix` counts a step that is not deterministic, if there can be no
            `cache_folder`, or if the pipeline of a training set packs items without loading their
            annotations.
    """

    # Whether a pipeline needs a LoadAnnotations step to see the ground truth.
    loads_annotations: ClassVar[bool] = True

    def __init__(
        self, *args: Any, cache_prefix: int = 0, cache_folder: str | None = None, **kwargs: Any
    ) -> None:
        self.cache_prefix = cache_prefix
        self._cache: dict[tuple, dict] = {}
        super().__init__(*args, **kwargs)
        check_files(self)
        if cache_folder is not None and not cache_prefix:
            names = [type(step).__name__ for step in self._steps]
            self.cache_prefix = len(list(takewhile(_is_deterministic, names)))
        self._check_pipeline()
        self._files: StepCache | None = None
        if cache_folder is not None and self.cache_prefix:
            self._files = StepCache(cache_folder, self._steps[: self.cache_prefix])

    def _check_pipeline(self) -> None:
        names = [type(step).__name__ for step in self._steps]
        count = self.cache_prefix
        check_integer(count, 'dataset.cache_prefix (steps of the pipeline)', 0, len(names))
        for i, name in enumerate(names[:count]):
            if not _is_deterministic(name):
                raise ConfigError(
                    f'dataset.cache_prefix: {count} steps of the pipeline cannot be cached: '
                    f'pipeline[{i}] is {name!r}; expected Load..., {", ".join(DETERMINISTIC)}'
                )
        packs = any(name.startswith('Pack') for name in names)
        training = packs and not getattr(self, 'test_mode', False)
        if training and self.loads_annotations and not any('Annotations' in n for n in names):
            raise ConfigError(
                'dataset.pipeline: a training pipeline without LoadAnnotations has no ground truth '
                f'(its steps: {", ".join(names)})'
            )

    @property
    def _steps(self) -> list[Callable[[dict], dict | None]]:
        return self.pipeline.transforms  # type: ignore[attr-defined]

    def check_step(self, results: dict, new: set[str]) -> None:
        """Check an item after a step of the pipeline.

        Args:
            results: What the steps so far have left.
            new: The keys that this step has added.

        Raises:
            ConfigError: If files and annotations contradict each other.
        """

    def prepare_data(self, idx: int) -> Any:
        """Load an item: the cached steps, or what is kept of them, then the others."""
        return load_whole(self, idx, self._prepare)

    def _prepare(self, idx: int) -> Any:
        info = self.get_data_info(idx)  # type: ignore[attr-defined]
        steps, first = self._steps, self.cache_prefix
        if not first:
            return self._run(steps, info)
        if self._files is not None:
            path = self._files.path(info)
            kept = self._files.load(path)
            if kept is None:
                kept = self._run(steps[:first], info)
                if kept is None:
                    return None
                self._files.save(path, kept)
            return self._run(steps[first:], kept)
        key = idx, info.get('img_path')  # a subset of the data set counts anew
        kept = self._cache.get(key)
        if kept is None:
            kept = self._run(steps[:first], info)
            if kept is None:
                return None
            self._cache[key] = kept
        return self._run(steps[first:], copy.deepcopy(kept))

    def _run(self, steps: list[Callable[[dict], dict | None]], results: Any) -> Any:
        for step in steps:
            known = set(results) if isinstance(results, dict) else None
            results = step(results)
            if results is None:
                return None
            if known is not None and isinstance(results, dict):
                self.check_step(results, set(results) - known)
        return results
