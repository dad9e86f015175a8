"""Transfer: every iterate that an attack shows one network is judged on another."""

import torch
from torch import Tensor

from satbench.evaluation.counting import Counted
from satbench.evaluation.judge import vote
from satbench.numerics.threat import ThreatModel


class Target:
    """The judged network while attacks search on another one, whose predictions do not count.

    An image's example is its first iterate inside ball and box that this network misclassifies; without one, it is what
    the attack returned. Passes of this network count as forward passes of the image.
    """

    x: Tensor
    y: Tensor
    threat: ThreatModel
    examples: Tensor
    passes: Tensor
    fell_at: Tensor

    def __init__(self, network: Counted, search: Counted, draws: int) -> None:
        self.network, self.search, self.draws = network, search, draws
        search.shown = self.judge

    def watch(self, x: Tensor, y: Tensor, threat: ThreatModel) -> None:
        """Start anew for these images (N, C, H, W) with labels (N,)."""
        self.x, self.y, self.threat = x, y, threat
        self.examples = x.clone()
        self.passes = torch.zeros_like(y)
        self.fell_at = torch.full_like(y, -1)

    def judge(self, x_adv: Tensor, rows: Tensor) -> None:
        """Look at iterates (M, C, H, W) of the images `rows`, int64 (M,), that have no example yet."""
        if x_adv.shape[1:] != self.x.shape[1:]:
            return
        where = (self.fell_at[rows] < 0).nonzero()[:, 0]
        where = where[self.threat.contains(self.x[rows[where]], x_adv[where])]
        if not len(where):
            return
        seen = vote(self.network.watched, x_adv[where], self.y[rows[where]], self.draws)
        self.passes.index_add_(0, rows[where], torch.full_like(where, self.draws))
        for position in where[seen.predictions != self.y[rows[where]]].tolist():
            row = rows[position]
            if self.fell_at[row] < 0:  # an image may be there twice
                self.examples[row] = x_adv[position]
                self.fell_at[row] = self.search.passed(row) + self.passes[row]

    def chosen(self, x_adv: Tensor) -> Tensor:
        """The example of each image, where the attack returned `x_adv`."""
        return torch.where((self.fell_at >= 0).view(-1, 1, 1, 1), self.examples.to(x_adv.dtype), x_adv)
