"""Stopping on Ctrl-C or SIGTERM, after the running update."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Yields whether Ctrl-C or SIGTERM asked to stop; the first Ctrl-C sets a flag; the second interrupts immediately.

    Only the main thread receives signals. A process that ignores Ctrl-C, or handles SIGTERM itself, continues to do so.
    """
    pressed = threading.Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    if threading.current_thread() is not threading.main_thread():
        yield pressed.is_set
        return

    def note(number: int, frame: object) -> None:
        pressed.set()
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    if before[signal.SIGINT] != signal.SIG_IGN:
        signal.signal(signal.SIGINT, note)
    if before[signal.SIGTERM] == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, note)
    try:
        yield pressed.is_set
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
