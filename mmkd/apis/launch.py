"""torchrun, with one line in place of its own traceback: python -m mmkd.apis.launch ARGUMENTS.

The arguments are torchrun's. SIGUSR1 is passed on to the processes, too. The exit status is that of
the process that failed first, that of `PreemptionHook` where the process itself got the signal;
after a signal to torchrun it is 1, and the checkpoint tells (`tools/slurm_job.sh`).
"""

from __future__ import annotations

import signal
import sys
from types import FrameType


def _end(number: int, frame: FrameType | None) -> None:
    from torch.distributed.elastic.multiprocessing.api import SignalException

    raise SignalException(f'got signal {number}', signal.Signals(number))


def main() -> None:
    """Run torchrun."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    # The other signals are torchrun's own; of this one it would die, and leave its processes alone.
    signal.signal(signal.SIGUSR1, _end)
    try:
        run.run(run.parse_args(None))
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        status = failure.exitcode
        ended = f'exit status {status}' if status >= 0 else signal.Signals(-status).name
        print(f'\nprocess {rank} ended first, by {ended}; its message is above', file=sys.stderr)
        sys.exit(status if status >= 0 else 128 - status)
    except SignalException as error:
        print(f'\nended by {signal.Signals(error.sigval).name}', file=sys.stderr)
        sys.exit(1)


if __name__ == '__main__':
    main()
