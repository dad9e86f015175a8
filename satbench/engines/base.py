"""What an engine is: it starts workers somewhere and tells how they ended."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from satbench.core.errors import BadInput


@dataclass(frozen=True)
class Resources:
    """What one worker needs. `cpus` is also its number of threads, on which bits can depend."""

    cpus: int = 1
    gpus: int = 0

    def __post_init__(self) -> None:
        if self.cpus < 1 or self.gpus < 0:
            raise BadInput(f"resources of {self.cpus} cores and {self.gpus} GPUs; a worker takes at least 1 and 0")

    def __str__(self) -> str:
        named = ((self.cpus, "core"), (self.gpus, "GPU"))
        return " and ".join(f"{count} {what}{'s' if count > 1 else ''}" for count, what in named if count)

    def fit(self, cpus: float, gpus: float) -> int:
        """How many such workers fit on one machine."""
        return int(min(have // need for have, need in ((cpus, self.cpus), (gpus, self.gpus)) if need))


@dataclass(frozen=True)
class Call:
    """What a worker does: call `function`, named `package.module:function`, with the picklable `arguments`.

    The function takes work from `folder`, a path or URL that every worker must see, until nothing is left for it, and
    returns. It raises `BadInput` when no worker can succeed. `software` names a function without arguments that returns
    a dictionary of texts, such as versions; a worker on whose machine it returns anything else is refused.
    """

    function: str
    arguments: Mapping[str, Any]
    folder: str
    software: str = ""


@dataclass(frozen=True)
class Order:
    """A call as it is sent to a worker, with what the worker checks before it begins."""

    call: Call
    resources: Resources
    token: str  # a file in the folder
    software: Mapping[str, str] = field(default_factory=dict)  # of the machine that sends it
    working_directory: str = "."
    environment: Mapping[str, str] = field(default_factory=dict)  # variables that decide what names mean


@dataclass(frozen=True)
class Ended:
    """How a worker ended: its function returned, it raised `BadInput`, or anything else, such as a signal.

    `message` is the line of the `BadInput`, or the last line that the worker printed.
    """

    how: Literal["returned", "refused", "died"]
    message: str = ""


class Job(Protocol):
    """One started worker."""

    def poll(self) -> Ended | None:
        """How the worker ended, None while it waits for a machine or works."""

    def stop(self) -> None:
        """Ask the worker to end; returns at once."""


class Engine(Protocol):
    """Starts workers somewhere. It does not start again those that died: `run_workers` does."""

    def slots(self, resources: Resources) -> int:
        """How many such workers can run at the same time; may change while machines come and go."""

    def start(self, order: Order, count: int) -> Sequence[Job]:
        """Start `count` equal workers; raises `BadInput` when the cluster refuses them."""

    def close(self) -> None:
        """Stop every worker that is left, and return when none is."""
