"""One worker as a process, on whichever machine an engine starts it."""

import contextlib
import importlib
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from satbench.core.errors import BadInput
from satbench.core.shared import file_system
from satbench.engines.base import Call, Ended, Order

GRACE = 10.0  # seconds from SIGTERM, on which a training saves, to SIGKILL
LOOK = 5.0  # seconds between two looks for the token
REFUSED = 2  # exit status on bad input, as everywhere in satbench
TOKEN = ".token-"  # and random digits, a file in the shared folder
PROGRAM = "from satbench.engines.process import main; main()"


class WorkerProcess:
    """A worker in a process group of its own, which ends with the process that started it, however that ends."""

    def __init__(self, order: Order, gpus: str | None = None) -> None:
        """Start the worker; `gpus` is its CUDA_VISIBLE_DEVICES, None for those that this process sees."""
        environment = {**os.environ, **order.environment, "OMP_NUM_THREADS": str(order.resources.cpus)}
        if gpus is not None or not order.resources.gpus:
            environment["CUDA_VISIBLE_DEVICES"] = gpus or ""
        self._output = tempfile.TemporaryFile()  # noqa: SIM115, closed in poll
        self._process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=self._output,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=order.working_directory if Path(order.working_directory).is_dir() else None,
            start_new_session=True,  # Ctrl-C reaches the parent alone
        )
        self._ended: Ended | None = None
        self._stopped_at: float | None = None
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it died already, which `poll` tells
            self._process.stdin.write(pickle.dumps(order))
            self._process.stdin.flush()

    def poll(self) -> Ended | None:
        """How the worker ended, None while it works."""
        if self._ended is None:
            status = self._process.poll()
            if status is not None:
                self._signal(signal.SIGKILL)  # what the worker itself started
                self._ended = self._how(status)
                self._output.close()
                assert self._process.stdin is not None
                self._process.stdin.close()
            elif self._stopped_at is not None and time.monotonic() > self._stopped_at + GRACE:
                self._signal(signal.SIGKILL)
        return self._ended

    def stop(self) -> None:
        """Send SIGTERM; `wait` and `poll` send SIGKILL `GRACE` seconds later."""
        if self._ended is None and self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._signal(signal.SIGTERM)

    def wait(self) -> Ended:
        """Wait until the worker has ended; it is stopped when the wait is interrupted."""
        try:
            while (ended := self.poll()) is None:
                time.sleep(0.05)
            return ended
        finally:
            self.stop()  # nothing, where it has ended
            while self.poll() is None:
                time.sleep(0.05)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS says the latter of a group of zombies
            os.killpg(self._process.pid, number)

    def _how(self, status: int) -> Ended:
        if status == 0:
            return Ended("returned")
        end = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, end - 4096))
        lines = self._output.read().decode(errors="replace").strip().splitlines()
        if status == REFUSED and lines:
            return Ended("refused", lines[-1])
        words = f"ended with status {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        return Ended("died", f"{words} on {socket.gethostname()}{f', last line: {lines[-1]}' if lines else ''}")


def main() -> None:
    """The worker's side: read an order from standard input, check it, and make the call.

    Exits with status 2 and one line on bad input. Ends when standard input does, and when the study has: an engine that
    lost its cluster cannot stop a worker there.
    """
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm warns all processes of a job; the parent sends SIGTERM
    order: Order = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        _check(order)
        threading.Thread(target=_end_with_study, args=(order,), daemon=True).start()
        _function(order.call.function)(**order.call.arguments)
    except BadInput as error:
        sys.stderr.write(f"{error}\n")  # read by the parent
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        sys.exit(130)


def software_of(call: Call) -> dict[str, str]:
    """What the call's `software` function says of this machine; nothing where it has none."""
    return dict(_function(call.software)()) if call.software else {}


def _check(order: Order) -> None:
    """Refuse a folder that is not the sender's, and software that is not."""
    host, folder = socket.gethostname(), order.call.folder
    if not _is_wanted(order):
        raise BadInput(
            f"{folder} on {host}, where a worker was started, is not the folder of the study; "
            "give a folder that every machine shares, under one path, or a URL"
        )
    here = software_of(order.call)
    for name in sorted({*here, *order.software}):
        there, mine = order.software.get(name, "nothing"), here.get(name, "nothing")
        if there != mine:
            raise BadInput(
                f"a worker on {host} has {name} {mine}, the study {there}; install the same on every machine"
            )


def _function(name: str) -> Callable[..., Any]:
    module, _, attribute = name.partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), attribute)
    return function


def _is_wanted(order: Order) -> bool:
    """Whether the study that sent the order still runs, as far as its folder tells; raises what the storage raises."""
    system, root = file_system(order.call.folder)
    system.invalidate_cache()
    try:
        system.info(f"{root}/{TOKEN}{order.token}")  # `exists` takes every error for an absence
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _end_with_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nothing more is written: it returns when the parent has ended
    os.killpg(os.getpgrp(), signal.SIGKILL)


def _end_with_study(order: Order) -> None:
    wanted = True
    while wanted:
        time.sleep(LOOK)
        with contextlib.suppress(OSError):  # the storage does not answer just now
            wanted = _is_wanted(order)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE)
    os.killpg(os.getpgrp(), signal.SIGKILL)
