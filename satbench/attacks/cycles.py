"""When a search without memory has nothing left to find."""

import torch
from torch import Tensor


class Cycles:
    """Notices samples whose iterate is bit for bit the one of two steps before.

    Where the next iterate follows from the present one alone, such a sample alternates between two points for ever, and
    both have been judged (Linf steps along the sign mostly end so, arXiv 2503.19347). Its loss must repeat as well, so
    that a network with random outputs is never taken for settled.
    """

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.losses: list[Tensor] = []  # of the last two iterates, over all samples; NaN for one that had left
        self.iterates: list[tuple[Tensor, Tensor]] = []  # their rows and images

    def repeats(self, rows: Tensor, x_adv: Tensor, losses: Tensor) -> Tensor:
        """Which of the iterates `x_adv` of the samples `rows`, int64 ascending, repeat, bool (N,)."""
        found = torch.zeros_like(rows, dtype=torch.bool)
        if len(self.losses) == 2:
            maybe = (losses == self.losses[0][rows]).nonzero()[:, 0]
            if len(maybe):
                earlier_rows, earlier = self.iterates[0]
                there = torch.searchsorted(earlier_rows, rows[maybe])
                found[maybe] = (x_adv[maybe] == earlier[there]).flatten(1).all(1)
        everywhere = losses.new_full((self.samples,), torch.nan)
        everywhere[rows] = losses
        self.losses = [*self.losses[-1:], everywhere]
        self.iterates = [*self.iterates[-1:], (rows, x_adv)]
        return found
