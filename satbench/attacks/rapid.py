"""At most an eighth of AutoAttack's passes: short targeted runs from many starts, then random search."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from satbench.attacks.base import Described, MostPasses, crafting, describe, later
from satbench.attacks.gradient import finite, input_gradient
from satbench.attacks.losses import likeliest_wrong, margin, margin_targeted
from satbench.attacks.schedules import Ascent
from satbench.attacks.squares import signs, square_search
from satbench.core.parameters import check_fields
from satbench.numerics.seeding import Randomness, rows, uniform
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo

TARGETS, GLANCE = 9, 10  # wrong classes that every image is tried on, and the steps each gets
ROUNDS = (0, 0, 1, 0, 2) * 3  # which class a round aims at: 0 is the one that came nearest so far
STEPS = 20  # of a round
QUERIES = 400  # of the random search
AREA = 0.8  # of the first squares, as a share of the image
SPARSITY = 1 / 8  # share of the pixels that an L1 start moves
LENGTHS = {"Linf": 2.0, "L2": 0.5, "L1": 2.0}  # of a square in the threat's norm, in units of eps
MOST_PASSES = 1 + TARGETS * (2 * GLANCE + 1) + len(ROUNDS) * (2 * STEPS + 1) + QUERIES


@dataclass(frozen=True, repr=False)
class Rapid(Described):
    """At most `MOST_PASSES` forward and backward passes an image, 1,205, where AutoAttack standard takes 9,770.

    1. The nine likeliest wrong classes, one run of 10 steps each.
    2. Fifteen runs of 20 steps, each at the class that came nearest to winning so far, every third or fifth time at
       the second or third nearest.
    3. 400 queries of random search, going out from the best example so far.

    A run ascends the target's logit minus the true one from signs drawn on a grid of random coarseness, with steps
    that fall from eps to 0 along half a cosine. A misclassified image takes no further pass, unless `early_stop` is
    false. No draw and no decision depends on another image. The example of an image that stands is its iterate of
    largest margin. Entries of a gradient that are NaN or infinite count as 0.

    Where it comes from: margins of the few likeliest classes, MM (Gao et al. 2022, arXiv 2206.07314); many short runs
    that drop what fell, A3 (Liu et al. 2022, arXiv 2203.05154), without its starts learnt from other images; the random
    search of Square (Andriushchenko et al. 2020, arXiv 1912.00049) with its schedule pressed into 400 queries, started
    from a gradient's result instead of stripes and drawn per image. In every norm a query adds a square of signs and
    projects; Square has moves of its own in L2 and L1.

    Its rate is an upper bound on robust accuracy, as every attack's is. `benchmarks/rapid.py` measures how far it lies
    from AutoAttack's; the constants were chosen on digits and on one network for MNIST. It is meant for networks whose
    gradients can be followed. Where they are discontinuous or masked, as with k-winners-take-all, it can stop above
    AutoAttack standard; `evaluate` continues it with AutoAttack where the trust battery doubts the network. Raises
    `BadInput` where the model gives no gradient.
    """

    early_stop: bool = later(True)

    def __post_init__(self) -> None:
        check_fields(self, "rapid")

    @property
    def info(self) -> AttackInfo:
        return describe(self, "rapid", "gradient", "rapid", "Rapid")

    def most_passes(self, norm: str, classes: int) -> MostPasses:
        """See `Attack`."""
        targets = min(TARGETS, classes - 1)
        steps = targets * GLANCE + len(ROUNDS) * STEPS
        forward = 1 + steps + targets + len(ROUNDS) + QUERIES
        return MostPasses(forward, steps, 0.1 if self.early_stop else 1.0)

    @property
    def exhaustive(self) -> "Rapid":
        return replace(self, early_stop=False)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        if not len(x) or threat.eps == 0:
            return x.clone()
        with crafting(model):
            search = _Search(model, x, y, threat, randomness, self.early_stop)
            for target in likeliest_wrong(search.reach, y, TARGETS).T:
                search.climb(target, GLANCE)
            for place in ROUNDS:
                nearest = likeliest_wrong(search.reach, y, place + 1)
                search.climb(nearest[:, -1], STEPS)
            search.wander(QUERIES)
        return search.best


class _Search:
    """The images, which rows of them are still searched, and what was reached so far.

    standing: all rows, or with `early_stop` those that the model still classifies correctly. best: the first example
    that fooled the model, else the iterate of largest margin, like `x`. highest: that margin, (N,). reach: the largest
    lead of each class over the true one, (N, K), 0 for the true class.
    """

    def __init__(
        self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness, early_stop: bool
    ) -> None:
        self.model, self.x, self.y, self.threat, self.randomness = model, x, y, threat, randomness
        self.early_stop = early_stop
        self.best = x.clone()
        self.standing = torch.arange(len(x), device=x.device)
        with torch.no_grad():
            logits = model(x)
        self.highest = x.new_full((len(x),), -torch.inf)
        self.reach = torch.full_like(logits, -torch.inf)
        self._judge(x, logits)

    def climb(self, target: Tensor, steps: int) -> None:
        """One run of the standing images towards `target`, int64 (N,): 2 steps + 1 passes an image at most."""
        if not len(self.standing):
            return
        x, y, target = self.x[self.standing], self.y[self.standing], target[self.standing]
        mover = Ascent(self.threat.around(x), self.threat.eps, steps, cosine=True)
        x_adv = mover.ball.project(x + self.threat.eps * self._pattern(x))
        for iteration in range(steps + 1):
            last = iteration == steps
            x_adv.requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                logits = self.model(x_adv)
                losses = margin_targeted(logits, y, target)
                grad = None if last else finite(input_gradient(losses, x_adv))
            x_adv, losses = x_adv.detach(), losses.detach()
            left = self._judge(x_adv, logits.detach())
            if len(left) < len(x_adv):
                y, target, x_adv, losses = y[left], target[left], x_adv[left], losses[left]
                grad = None if grad is None else grad[left]
                mover.keep(left)
            if not len(left):
                break
            if grad is not None:
                x_adv = mover.move(iteration, x_adv, grad, losses)

    def wander(self, queries: int) -> None:
        """Random search of the standing images from their best examples: `queries` passes an image at most."""

        def judge(points: Tensor) -> tuple[Tensor, Tensor]:
            with torch.no_grad():
                logits = self.model(points)
            left = self._judge(points, logits)
            return left, self.best[self.standing]

        x = self.x[self.standing]
        like = x.new_empty(len(x), queries, 2 + x.shape[1])
        chances = uniform(like, rows(self.randomness, self.standing))
        square_search(self.threat, x, self.best[self.standing], chances, AREA, LENGTHS[self.threat.norm], judge)

    def _pattern(self, x: Tensor) -> Tensor:
        """Signs like `x`, equal on squares whose side is drawn from 1, 2, 4, ... up to the image's.

        In L1, whose examples change few pixels, about seven eighths are 0.
        """
        randomness = rows(self.randomness, self.standing)
        pattern = signs(uniform(x, randomness))
        height, width = x.shape[2:]
        sizes = max(height, width).bit_length()
        level = (uniform(x[:, :1, :1, :1], randomness) * sizes).long().view(-1, 1)
        down = torch.arange(height, device=x.device) >> level
        right = torch.arange(width, device=x.device) >> level
        row = torch.arange(len(x), device=x.device).view(-1, 1, 1)
        pattern = pattern.movedim(1, 3)[row, down[:, :, None], right[:, None, :]].movedim(3, 1)
        return pattern * (uniform(x, randomness) < SPARSITY) if self.threat.norm == "L1" else pattern

    def _judge(self, x_adv: Tensor, logits: Tensor) -> Tensor:
        """Note what iterates of the standing images reached; which of them are searched further, int64 positions."""
        standing, y = self.standing, self.y[self.standing]
        leads = logits - logits.gather(1, y[:, None])
        self.reach[standing] = torch.maximum(self.reach[standing], leads)
        margins = margin(logits, y).to(self.highest.dtype)
        done = (logits.argmax(1) != y) & self.early_stop
        better = (done | (margins > self.highest[standing])).nonzero()[:, 0]
        self.best[standing[better]] = x_adv[better]
        self.highest[standing[better]] = margins[better]
        left = (~done).nonzero()[:, 0]
        self.standing = standing[left]
        return left
