import json
import math
import time
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmkd.registry import HOOKS
from mmkd.utils.checks import choose
from mmkd.utils.files import write_atomically


@HOOKS.register_module()
class StudyResultHook(Hook):
    """Write the last validation's metrics, and what they have cost, to `result.json`.

    That is: iterations, minutes, each member's parameters, and a digest of each frozen member.

    If the end of the training was not validated, it is now.

    Minutes count what the weights at hand have cost, with validation: over resumes they go on
    from the checkpoint's, and work that a kill lost is left out. Those of a stage before
    (`pretrain` with its default work folder), which has a result of its own, are counted, too.

    Args:
        expected: Metrics that each validation must have; the first one without them ends the run.
    """

    file = 'result.json'
    priority = 'LOW'
    key = 'mmkd_study'

    def __init__(self, expected: list[str]) -> None:
        self.expected = expected
        self.metrics: dict[str, float | None] = {}
        self.validated = -1
        self.minutes_before = 0.0

    def before_train(self, runner: Runner) -> None:
        """Start the clock, of a new training at the minutes of the stage before it."""
        self.started = time.monotonic()
        stage = Path(runner.work_dir) / 'pretrain' / self.file
        if not self.minutes_before and stage.is_file():
            self.minutes_before = json.loads(stage.read_text())['minutes']

    def after_val_epoch(self, runner: Runner, metrics: dict[str, Any] | None = None) -> None:
        """Keep the metrics; non-finite ones become None."""
        found = {
            key: float(value) if math.isfinite(value) else None
            for key, value in (metrics or {}).items()
            if isinstance(value, (int, float)) or getattr(value, 'ndim', None) == 0
        }
        for name in self.expected:
            choose(name, found, 'primary.metric: the validation')
        self.metrics, self.validated = found, runner.iter

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Put minutes and metrics so far into the checkpoint."""
        checkpoint[self.key] = dict(
            minutes=self._minutes(), metrics=dict(self.metrics), validated=self.validated
        )

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Go on from the minutes and metrics of a resumed checkpoint."""
        saved = checkpoint.get(self.key)
        if saved is not None and runner._resume:
            self.minutes_before = saved['minutes']
            self.metrics, self.validated = saved['metrics'], saved['validated']

    def after_train(self, runner: Runner) -> None:
        """Write the result, validated at the end."""
        if self.validated != runner.iter and runner.val_loop is not None:
            runner.val_loop.run()  # resumed after the end, or an end that no interval falls on
        if not is_main_process():
            return
        result = dict(
            metrics=self.metrics,
            validated_at=self.validated,
            iterations=runner.iter,
            minutes=round(self._minutes(), 2),
            parameters=count_parameters(runner.model),
            frozen=frozen_digests(runner.model),
        )
        write_atomically(
            Path(runner.work_dir) / self.file,
            lambda path: Path(path).write_text(json.dumps(result, indent=1)),
        )

    def _minutes(self) -> float:
        return self.minutes_before + (time.monotonic() - self.started) / 60


def frozen_digests(model: Any) -> dict[str, str]:
    """Return the digest of each frozen member's weights, by name."""
    model = model.module if is_model_wrapper(model) else model
    members: Any = getattr(model, 'members', None)
    return members.frozen_digests() if hasattr(members, 'frozen_digests') else {}


def count_parameters(model: Any) -> dict[str, int]:
    """Count the parameters of each member and of all `links`, or of the one `model`."""
    model = model.module if is_model_wrapper(model) else model
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        parts = name.split('.')
        owner = parts[1] if parts[0] == 'members' else 'links' if hasattr(model, 'members') else ''
        counts[owner or 'model'] = counts.get(owner or 'model', 0) + parameter.numel()
    return counts
