"""Keeps workers going until the work is done, with any engine."""

import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from satbench.core.errors import BadInput
from satbench.core.shared import file_system
from satbench.engines.base import Call, Engine, Job, Order, Resources
from satbench.engines.process import TOKEN, software_of

POLL = 0.2  # seconds between two looks at the workers
LINGER = 3.0  # seconds that the workers have to return once the work is done
MEANINGS = ("SATBENCH_PLUGINS", "SATBENCH_ZOO", "SATBENCH_OFFLINE")  # which workers take from the sender
SPARE = 5  # how many more workers than slots may die while nothing gets done


def run_workers(
    engine: Engine,
    call: Call,
    resources: Resources,
    remaining: Callable[[], float],
    tick: Callable[[], None] = lambda: None,
    meanwhile: Callable[[], None] = lambda: None,
) -> None:
    """Run as many workers as the engine has slots until `remaining()` is 0, then stop those that are left.

    `remaining` says how much work is left, in any unit; a change of it is progress. A worker that died is replaced. One
    that returned although work is left, because others do all of it, is started again after progress, or when no
    worker is left. `tick` is called five times a second. `meanwhile` is called once, after the first workers were
    started; until it returns, none is replaced. Workers run in the current directory where their machine has it, and
    relative paths in the call's arguments are relative to it.

    Raises `BadInput` when the resources exceed every machine, a worker cannot see the folder, has other software or
    raised `BadInput`, or when more workers than `slots + 5` ended without progress. However it ends, Ctrl-C
    included, it leaves no worker behind.
    """
    most = engine.slots(resources)
    if remaining() and not most:
        raise BadInput(f"no machine has the {resources} that one worker needs; lower its resources")
    with _order(call, resources) as order:
        jobs: list[Job] = []
        before: float | None = None
        is_first = True
        in_vain = idle = 0
        try:
            while left := remaining():
                if left != before:
                    before, in_vain, idle = left, 0, 0
                ended = {index: how for index, job in enumerate(jobs) if (how := job.poll())}
                jobs = [job for index, job in enumerate(jobs) if index not in ended]
                for how in ended.values():
                    if how.how == "refused":
                        raise BadInput(how.message)
                    in_vain += how.how == "died"
                    idle += how.how == "returned"
                if idle and not jobs:
                    in_vain, idle = in_vain + idle, 0
                slots = engine.slots(resources)
                most = max(most, slots)
                if in_vain > most + SPARE:
                    last = [how.message for how in ended.values() if how.message][-1:]
                    said = f"the last {last[0]}" if last else "the last returned without an error"
                    raise BadInput(f"{in_vain} workers ended and nothing got done; {said}")
                if (missing := slots - len(jobs) - idle) > 0:
                    jobs += engine.start(order, missing)
                tick()
                if is_first:
                    is_first = False
                    meanwhile()
                time.sleep(POLL)
            _wait(jobs, LINGER)  # they see by themselves that nothing is left
        finally:
            for job in jobs:
                job.stop()
            _wait(jobs)


def _wait(jobs: Sequence[Job], seconds: float = math.inf) -> None:
    end = time.monotonic() + seconds
    while any(job.poll() is None for job in jobs) and time.monotonic() < end:
        time.sleep(POLL / 4)


@contextmanager
def _order(call: Call, resources: Resources) -> Iterator[Order]:
    """The call with a token, which lies in the shared folder as long as the block lasts."""
    token = secrets.token_hex(8)
    system, root = file_system(call.folder)
    system.makedirs(root, exist_ok=True)
    system.pipe_file(f"{root}/{TOKEN}{token}", b"")
    try:
        environment = {name: os.environ[name] for name in MEANINGS if name in os.environ}
        yield Order(call, resources, token, software_of(call), str(Path.cwd()), environment)
    finally:
        with suppress(FileNotFoundError):
            system.rm_file(f"{root}/{TOKEN}{token}")
