"""The one gradient loop: FGSM and PGD in Linf, L2 and L1, for training and for evaluation."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.attacks.base import crafting
from satbench.attacks.losses import LOSSES
from satbench.eps import default_step
from satbench.errors import BadInput
from satbench.lookup import nearest
from satbench.seeding import Randomness, normal, rows
from satbench.threat import ThreatModel

GAUSSIAN_SIGMA = 0.001  # the start of the TRADES authors' code
BLACK_BOX = "mend the model, or use a black-box attack: autoattack:version=custom,components=square"
INITS = ("zero", "uniform", "gaussian")
KEEPS = ("best", "last")


@dataclass(frozen=True)
class PGD:
    """Projected gradient ascent (Madry et al. 2018, arXiv 1706.06083).

    steps: gradient steps a restart.
    step_size: in the threat's own units; None means min(eps, 2.5 eps / steps), which is 2/255 for 10 steps at 8/255 and
        eps for one step.
    loss: "ce", "margin" or "dlr". init: "zero", "uniform" in the ball, or "gaussian" (sigma 0.001).
    restarts: independent starts; a later one runs only on the samples still standing.
    keep: "best" judges every iterate, returns the first that is misclassified and stops there, else the one of highest
        loss: `restarts * (steps + 1)` forward passes at most. "last" returns the last iterate unseen, as a training
        step wants it: `steps` forward passes, one restart.
    """

    steps: int = 10
    step_size: float | None = None
    loss: str = "ce"
    init: str = "uniform"
    restarts: int = 1
    keep: str = "best"

    def __post_init__(self) -> None:
        for name in ("steps", "restarts"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise BadInput(f"{name} of an attack is {value!r}; give a whole number from 1")
        size = self.step_size
        if size is not None and not (isinstance(size, int | float) and 0 < size < float("inf")):
            raise BadInput(f"step_size is {size!r}; give a positive number such as 2/255")
        for name, known in (("loss", tuple(LOSSES)), ("init", INITS), ("keep", KEEPS)):
            if getattr(self, name) not in known:
                raise BadInput(
                    f"unknown {name} {getattr(self, name)!r} of an attack; {nearest(getattr(self, name), known)}"
                )
        if self.keep == "last" and self.restarts > 1:
            raise BadInput("keep='last' never looks at its iterates, so restarts cannot help; use keep='best'")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        best = x.clone()
        highest = torch.full((len(x),), -torch.inf, device=x.device)
        standing = torch.arange(len(x), device=x.device)
        with crafting(model):
            for _ in range(self.restarts):
                if not len(standing):
                    break
                start = self._start(x[standing], threat, rows(randomness, standing))
                standing = self._ascend(model, x, y, threat, start, standing, best, highest)
        return best

    def _start(self, x: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        if self.init == "uniform":
            return threat.random_start(x, randomness)
        if self.init == "gaussian":
            return threat.project(x, x + GAUSSIAN_SIGMA * normal(x, randomness))
        return x.clone()

    def _gradient(self, losses: Tensor, x_adv: Tensor) -> Tensor:
        if not losses.requires_grad:
            raise BadInput(f"the model's logits have no gradient to its input; {BLACK_BOX}")
        grad = torch.autograd.grad(losses.sum(), x_adv)[0]
        if self.keep == "best" and not grad.isfinite().all():
            bad = int((~grad.isfinite()).flatten(1).any(1).sum())
            raise BadInput(f"the gradient to the input is NaN or infinite for {bad} of {len(grad)} images; {BLACK_BOX}")
        return grad

    def _ascend(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        x_adv: Tensor,
        standing: Tensor,
        best: Tensor,
        highest: Tensor,
    ) -> Tensor:
        """One restart on the rows `standing`: updates `best` and `highest` in place, returns the rows left standing."""
        loss = LOSSES[self.loss]
        step = self.step_size if self.step_size is not None else default_step(threat.eps, self.steps)
        x, y = x[standing], y[standing]
        for iteration in range(self.steps + 1):
            last = iteration == self.steps
            if last and self.keep == "last":
                best[standing] = x_adv
                break
            x_adv.requires_grad_(not last)
            with torch.set_grad_enabled(not last):
                logits = model(x_adv)
                losses = loss(logits, y)
                grad = None if last else self._gradient(losses, x_adv)
            x_adv = x_adv.detach()
            if self.keep == "best":
                fallen = logits.detach().argmax(1) != y
                better = fallen | (losses.detach() > highest[standing])
                best[standing[better]] = x_adv[better]
                highest[standing[better]] = losses.detach()[better].float()
                if fallen.any():
                    left = ~fallen
                    standing, x, y, x_adv = standing[left], x[left], y[left], x_adv[left]
                    grad = None if grad is None else grad[left]
                    if not len(standing):
                        break
            if grad is not None:
                x_adv = threat.ascend(x, x_adv, grad, step)
        return standing


def fgsm(loss: str = "ce", step_size: float | None = None, init: str = "zero") -> PGD:
    """The fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of length eps."""
    return PGD(steps=1, step_size=step_size, loss=loss, init=init)
