"""Workers as tasks of a Ray cluster, the extra `ray`."""

import logging
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from satbench.core.errors import BadInput, reason
from satbench.engines.base import Ended, Order, Resources
from satbench.engines.local import available_cores
from satbench.engines.process import WorkerProcess

ANSWERS_WITHIN = 5.0  # seconds
GONE_AFTER = 30.0  # seconds
OBJECT_STORE = 80 * 2**20  # bytes, near Ray's minimum: workers share files, not objects
SETTINGS = {  # read by Ray when it is imported
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # prints nothing of what raylets say
}


class RayEngine:
    """As many workers as fit on the cluster's machines, which may come and go.

    `address` is HOST:PORT of the cluster's head. Without one it is RAY_ADDRESS or the cluster that this machine belongs
    to, and else a cluster of this machine alone, which ends with the engine. Raises `BadInput` without the extra, and
    for an address that does not answer.
    """

    def __init__(self, address: str | None = None) -> None:
        os.environ.update(SETTINGS)
        try:
            import ray
        except ImportError:
            raise BadInput("engine ray needs its extra: pip install 'satbench[ray]'") from None
        self._ray: Any = ray
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        address = address or os.environ.get("RAY_ADDRESS")
        if address is not None:
            _check(address)
        try:
            self._ray.init(address or "auto", **quiet)
        except ConnectionError as error:
            if address is not None:
                raise BadInput(f"engine ray:{address} answers, but not as Ray ({reason(error)})") from None
            own = {"num_cpus": available_cores(), "object_store_memory": OBJECT_STORE, "include_dashboard": False}
            self._ray.init("local", **own, **quiet)
        self._task = self._ray.remote(max_retries=0, max_calls=1)(_work)  # `run_workers` replaces lost workers
        self._head: str = ray.get_runtime_context().gcs_address
        self._machines: list[dict[str, float]] = []
        self._answered = time.monotonic()
        self._closed = threading.Event()
        self._look()
        self._looks = threading.Thread(target=self._look_until_closed, daemon=True)  # a lost head blocks the call
        self._looks.start()

    @property
    def is_gone(self) -> bool:
        """Whether the head has not answered for 30 seconds; after 60 Ray ends this process."""
        return time.monotonic() > self._answered + GONE_AFTER

    def slots(self, resources: Resources) -> int:
        """How many workers fit on the machines that are alive, each machine by itself.

        None while the head is silent, which would block `start`. Raises `BadInput` when it is gone.
        """
        if self.is_gone:
            raise BadInput(
                f"the head of the Ray cluster, {self._head}, does not answer any more; start it again, "
                "then the same command to resume"
            )
        if time.monotonic() > self._answered + ANSWERS_WITHIN:
            return 0
        return sum(resources.fit(has.get("CPU", 0), has.get("GPU", 0)) for has in self._machines)

    def start(self, order: Order, count: int) -> Sequence["_RayJob"]:
        """Start `count` workers as tasks that ask for their cores and GPUs; Ray waits until a machine has them free."""
        task = self._task.options(num_cpus=order.resources.cpus, num_gpus=order.resources.gpus)
        return [_RayJob(self, self._ray, task.remote(order)) for _ in range(count)]

    def close(self) -> None:
        """Leave the cluster; Ray stops the tasks that are left."""
        self._closed.set()
        self._looks.join(ANSWERS_WITHIN)
        if not self._looks.is_alive():  # else the head is gone, and Ray would wait for it
            self._ray.shutdown()

    def _look_until_closed(self) -> None:
        while not self._closed.wait(1):
            self._look()

    def _look(self) -> None:
        self._machines = [node["Resources"] for node in self._ray.nodes() if node["Alive"]]
        self._answered = time.monotonic()


class _RayJob:
    def __init__(self, engine: RayEngine, ray: Any, task: Any) -> None:
        self._engine, self._ray, self._task = engine, ray, task

    def poll(self) -> Ended | None:
        if self._engine.is_gone:
            return Ended("died", "the head is gone")  # its workers end with the study
        if not self._ray.wait([self._task], timeout=0)[0]:
            return None
        try:
            ended: Ended = self._ray.get(self._task)
        except self._ray.exceptions.RayError as error:
            return Ended("died", reason(error))
        return ended

    def stop(self) -> None:
        if not self._engine.is_gone:
            self._ray.cancel(self._task)  # raises KeyboardInterrupt in `WorkerProcess.wait`


def _work(order: Order) -> Ended:
    return WorkerProcess(order).wait()


def _check(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) >= 2**16:
        raise BadInput(f"engine ray:{address}: not an address; give HOST:PORT of the head, such as ray:10.0.0.1:6379")
    if error := _refusal(address):
        raise BadInput(f"engine ray:{address} does not answer ({error}); start it with ray start --head")


def _refusal(address: str) -> OSError | None:
    """Why nothing answers at HOST:PORT, for which Ray itself would wait long; None where something does."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWERS_WITHIN).close()
    except OSError as error:
        return error
    return None
