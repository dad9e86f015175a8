"""What the methods have in common that keep soft labels of every training image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.methods.base import Passes, Step
from satbench.methods.extension import Extension

TABLE = "soft labels"


@dataclass(frozen=True)
class SoftLabels(Extension):
    """A table in the state, float32 (N, K), with one row of class weights for every training image, 0 at first.

    A step leaves the new rows (n, K) of its images in `kept["row"]`, and `after_update` writes them. Extra images have
    rows of their own.
    """

    def mean_passes(self, epochs: float) -> Passes:
        """Without the clean pass that pgd_at takes from `start_epoch` on, in the epochs before."""
        without = min(self.start_epoch, epochs) / epochs if self.base == "pgd_at" else 0.0
        return Passes(self.passes.forward - without, self.passes.backward)

    def initial_state(self, images: int, classes: int, batch: tuple[int, ...]) -> dict[str, Tensor]:
        return {TABLE: torch.zeros(images, classes)}

    def rows(self, step: Step) -> Tensor:
        """Of the images of the step, (n, K), before its update."""
        return step.state[TABLE][step.index]

    def after_update(self, model: nn.Module, x_adv: Tensor, step: Step) -> None:
        parts = [part.kept["row"] for part, _ in step.split(step.x) if "row" in part.kept]
        if parts:
            step.state[TABLE][step.batch_index] = step.processes.everywhere(torch.cat(parts), step)
