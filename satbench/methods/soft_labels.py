"""A table of soft labels, one row of class probabilities for every training image, in the state of a method."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from satbench.attacks.gradient import PGD
from satbench.core.errors import BadInput
from satbench.methods.base import Step

Base = Annotated[
    Literal["pgd_at", "trades"], Field(description="pgd_at or trades; its source joins it to no other method")
]


def empty_table(images: int, classes: int) -> dict[str, Tensor]:
    """The state before the first update: float32 (N, K) of zeros. A row is zero until `write_rows` has written it."""
    return {"soft labels": torch.zeros(images, classes)}


def read_rows(step: Step) -> Tensor:
    """The rows of the images of the step, (n, K), on the device of the table."""
    return step.state["soft labels"][step.index]


def write_rows(step: Step) -> None:
    """Write `kept["row"]`, (n, K), of every part and every process; the table is then the same on all processes."""
    own = torch.cat([part.kept["row"] for part, _ in step.split(step.x)])
    step.state["soft labels"][step.batch_index] = step.processes.everywhere(own, step)


def attack_of(base: str, steps: int, step_size: float | None) -> PGD:
    """The attack of `base`, whose objective is the caller's where it is another one."""
    if base == "trades":
        return PGD(steps=steps, step_size=step_size, loss="kl", init="gaussian", keep="last")
    return PGD(steps=steps, step_size=step_size, keep="last")


def beta_of(base: str, beta: float | None, method: str) -> float:
    """The weight of TRADES' divergence: `beta`, or 6 for None; 0 for pgd_at, which has none and refuses one."""
    if base == "trades":
        return 6.0 if beta is None else beta
    if beta is not None:
        raise BadInput(f"beta of {method} is the weight of TRADES' divergence; leave it out or give base=trades")
    return 0.0
