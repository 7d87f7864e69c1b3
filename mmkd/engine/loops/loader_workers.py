"""The processes that load images for a DataLoader: what ends them, and what does not."""

import os
import signal
import threading
from collections.abc import Callable
from typing import Any

from torch.utils.data import DataLoader


class OutlivesSigterm:
    """A `worker_init_fn`: SIGTERM ends the worker if its own process sends it, no other.

    torchrun, `timeout`, systemd and Slurm send a whole group of processes the signal on which
    `PreemptionHook` saves. The training needs its workers until then; they end with it.

    Args:
        then: The loader's own `worker_init_fn`.
    """

    def __init__(self, then: Callable[[int], Any] | None = None) -> None:
        self.then = then

    def __call__(self, worker: int) -> None:
        """Set the worker up, in its process."""
        if hasattr(signal, 'sigwaitinfo'):  # not on macOS
            # torch's handler ends the worker whoever sends it; blocked, it waits for the thread.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
            threading.Thread(target=_wait_for, args=(os.getppid(),), daemon=True).start()
        if self.then is not None:
            self.then(worker)


def _wait_for(sender: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != sender:
        continue
    os._exit(0)


def keep_workers(loader: DataLoader) -> None:
    """Let a loader's workers, not started yet, outlive a SIGTERM to all processes."""
    if not isinstance(loader.worker_init_fn, OutlivesSigterm):
        loader.worker_init_fn = OutlivesSigterm(loader.worker_init_fn)


def end_workers(loader: DataLoader) -> None:
    """End a loader's persistent workers; its next iterator starts new ones.

    Left to the garbage collector together with its pipes, each is waited for five seconds.
    """
    loader._iterator = None
