"""What tools/infer.py does."""

from __future__ import annotations

import argparse
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from threading import current_thread, main_thread
from types import FrameType

from mmkd.utils.text import align

from .frames import Frames
from .inferencer import Latency, MemberInferencer
from .writers import FrameWriter, ResultWriter, check_inputs_stay


def infer(args: argparse.Namespace) -> None:
    """Predict as the command line of tools/infer.py says, write files and print what was measured.

    Raises:
        ConfigError: For a wrong input, before anything is written; also if results would replace
            an input or lie in an input folder.
    """
    source = args.input[0] if len(args.input) == 1 else args.input
    frames = Frames(source, args.limit)  # first: a wrong input shows before the model is built
    inferencer = MemberInferencer(args.model, args.config, args.member, args.device, args.score_thr)
    inferencer.smoothing(frames, args.smooth)  # a wrong option is told before a file is written
    out = Path(args.out)
    check_inputs_stay(out, frames, inferencer.names, drawn=not args.no_draw)
    classes = inferencer.metainfo['classes']
    writers = [ResultWriter(out, name, classes) for name in inferencer.names]
    drawer = None if args.no_draw else FrameWriter(out, frames.fps if frames.is_video else None)
    count, start, stopped = 0, time.perf_counter(), False
    try:
        with _noted_interrupts() as interrupts:
            for predicted in inferencer.stream(frames, args.batch_size, args.smooth):
                for writer in writers:
                    writer.add(predicted)
                if drawer is not None:
                    drawer.add(predicted, inferencer.draw(predicted))
                count += 1
                if interrupts:
                    raise KeyboardInterrupt
    except KeyboardInterrupt:  # how a camera is stopped
        stopped = True
        print('stopped: what was predicted so far is written')
    finally:
        seconds = time.perf_counter() - start
        files = [path for writer in writers for path in writer.close()]
        files += [] if drawer is None else drawer.close()
    done = 'predicted, drawn and written' if drawer is not None else 'predicted and written'
    told = f'{count} frame{"" if count == 1 else "s"} {done} in {seconds:.1f} s'
    print(f'{told}: {count / seconds:.1f} a second')
    for path in files:
        print(f'wrote {path}')
    if args.latency and not stopped:
        measured = inferencer.latency(islice(Frames(source), args.latency))
        print(f'\n{latency_table(measured)}')


@contextmanager
def _noted_interrupts() -> Iterator[list[int]]:
    """Note a Ctrl-C in the list beside raising it.

    Python drops what is raised inside a weak reference's callback, of which matplotlib has many.
    """
    received: list[int] = []
    plain = signal.getsignal(signal.SIGINT)
    if plain is not signal.default_int_handler or current_thread() is not main_thread():
        yield received
        return

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, note)
    try:
        yield received
    finally:
        signal.signal(signal.SIGINT, plain)


def latency_table(measured: dict[str, Latency]) -> str:
    """Format latencies as a text table, in milliseconds."""
    rows = [['batch 1, ms', 'p50', 'p95', 'network p50', 'network p95', 'frames/s']]
    for name, latency in measured.items():
        numbers = [f'{value:.1f}' for value in latency.percentiles().values()]
        rows.append([name, *numbers, f'{latency.frames_per_second:.1f}'])
    return align(rows)
