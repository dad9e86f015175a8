"""The one gradient loop: FGSM, PGD and its descendants in Linf, L2 and L1, for training and for evaluation."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from satbench.attacks.base import Described, MostPasses, crafting, describe, later, uses_batch_statistics
from satbench.attacks.cycles import Cycles
from satbench.attacks.losses import LOSSES, TARGETED, likeliest_wrong
from satbench.attacks.schedules import APGD, SCHEDULES, Ascent, Mover
from satbench.core.eps import default_step, sat_step
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.parameters import Count, Positive, Share, Steps, check_fields
from satbench.numerics.seeding import Randomness, normal, rows, uniform
from satbench.numerics.threat import ThreatModel
from satbench.specs.attack import AttackInfo, Tier, effort, label_with_counts

GAUSSIAN_SIGMA = 0.001  # the start of the TRADES authors' code
BLACK_BOX = "fix the model, or use --attack square, or for a kNN read-out --attack knn-guided"
INITS = ("zero", "uniform", "uniform-unclipped", "gaussian")
KEEPS = ("best", "last")
Step = Annotated[Positive | Literal["sat"], Field(description="a positive number such as 2/255, or sat")]
N_TARGETS = 9  # as in AutoAttack
SAT = {"step_size": "sat", "loss": "ce", "init": "uniform-unclipped", "restarts": 1, "keep": "last"}


@dataclass(frozen=True, repr=False)
class PGD(Described):
    """Projected gradient ascent (Madry et al. 2018, arXiv 1706.06083).

    steps: gradient steps a restart.
    step_size: in the threat's own units; None means min(eps, 2.5 eps / steps), which is 2/255 for 10 steps at 8/255 and
        eps for one step, but at least eps / 2 where the best iterate of L2 or L1 is kept, and eps for "cosine"; "sat"
        means max(1/255, eps / steps), Linf only.
    loss: "ce", "margin", "dlr", "kl" from the clean prediction, "margin-targeted" or "dlr-targeted".
    init: "zero", "uniform" in the ball, "uniform-unclipped", which may lie outside the box (Linf only), or "gaussian"
        (sigma 0.001).
    restarts: independent starts; a later one runs only on the samples still standing.
    keep: "best" judges every iterate, returns the first that is misclassified and stops there, else the one of highest
        loss: `restarts * (steps + 1)` forward passes at most. "last" returns the last iterate unseen, as a training
        step wants it: `steps` forward passes, one restart; NaN for an image whose gradient was not finite.
    momentum: decay factor of MI-FGSM, 0 to 1.
    schedule: "fixed" steps, "cosine" from step_size to 0, or "apgd", whose steps start at 2 eps (Linf and L2).
    n_targets: for a targeted loss the number of wrong classes tried, likeliest on the clean image first, each with its
        own restarts; classes - 1 where the model has fewer.
    patience: with "last", an image stops at the iterate that is the so-many-th misclassified one, which is returned
        (the early-stopped PGD of Pang et al. 2021, arXiv 2010.00467); None lets every image take all steps. It leaves
        the batch then, unless batch norms normalise by the batch: these always see all images, as in the released code.
    early_stop: with "best", False takes all steps of all restarts on every image, misclassified or not, for a network
        whose single verdict does not decide. It returns the last iterate of the restart where that has the highest
        loss, because the highest loss of all iterates of a random network is chance; with "apgd" it is that iterate.
    eot: passes per iterate over which logits, loss and gradient are averaged (expectation over transformation, Athalye
        et al. 2018, arXiv 1707.07397), for a network that draws random numbers; it multiplies the passes.

    "kl" and the targeted losses take one more forward pass, on the clean image. With "best", entries of a gradient that
    are NaN or infinite count as 0. Raises `BadInput` for a combination that makes no sense, and where the model gives
    no gradient.
    """

    steps: Steps = 10
    step_size: Step | None = None
    loss: str = "ce"
    init: str = "uniform"
    restarts: Steps = 1
    keep: str = "best"
    momentum: Share = later(0.0)
    schedule: str = later("fixed")
    n_targets: Count = later(N_TARGETS)
    patience: Count | None = later(None)
    early_stop: bool = later(True)
    eot: Count = later(1)

    def __post_init__(self) -> None:
        check_fields(self, "an attack")
        for name, known in (("loss", tuple(LOSSES)), ("init", INITS), ("keep", KEEPS), ("schedule", SCHEDULES)):
            if getattr(self, name) not in known:
                raise BadInput(
                    f"unknown {name} {getattr(self, name)!r} of an attack; {nearest(getattr(self, name), known)}"
                )
        self._refuse_what_clashes()

    def _refuse_what_clashes(self) -> None:
        targeted = self.loss in TARGETED
        if self.keep == "last" and self.restarts > 1:
            raise BadInput("keep='last' never looks at its iterates, so restarts cannot help; use keep='best'")
        if self.keep == "last" and targeted and self.n_targets > 1:
            raise BadInput("keep='last' returns one iterate, so it takes one target; use n_targets=1 or keep='best'")
        if self.keep == "last" and self.schedule == "apgd":
            raise BadInput("schedule='apgd' goes back to its best iterate, unknown to keep='last'; use keep='best'")
        if self.keep == "last" and not self.early_stop:
            raise BadInput("keep='last' never stops at a misclassified iterate; leave out early_stop")
        if self.keep == "best" and self.patience is not None:
            raise BadInput("keep='best' stops at the first misclassified iterate; leave out patience")
        if self.keep == "best" and self.init == "uniform-unclipped":
            raise BadInput("init='uniform-unclipped' starts outside the box, where nothing counts; use keep='last'")
        if self.schedule == "apgd" and (self.momentum or self.step_size is not None):
            raise BadInput("schedule='apgd' has its own momentum and steps; leave out momentum and step_size")
        if self.loss == "kl" and self.init == "zero":
            raise BadInput("loss='kl' has no gradient at the clean image; use init='gaussian' or init='uniform'")
        if self.n_targets != N_TARGETS and not targeted:
            raise BadInput(f"n_targets is for a targeted loss, not {self.loss!r}; use loss={' or '.join(TARGETED)}")

    @property
    def info(self) -> AttackInfo:
        if self.steps == 1 and self.init == "zero":
            label = "FGSM"
        else:
            is_sat = all(getattr(self, key) == value for key, value in SAT.items())
            label = label_with_counts("SAT PGD" if is_sat else "PGD", vars(self))
        tier: Tier = "PGD" if self.steps > 1 else "another attack"
        return describe(self, "pgd", "gradient", tier, label, effort(vars(self)))

    def most_passes(self, norm: str, classes: int) -> MostPasses:
        """See `Attack`; images whose iterates repeat take fewer."""
        is_targeted = self.loss in TARGETED
        ascents = self.restarts * self.eot * (min(self.n_targets, classes - 1) if is_targeted else 1)
        stops = self.keep == "best" and self.early_stop
        judged = self.steps + 1 if self.keep == "best" else self.steps
        clean = int(is_targeted or self.loss == "kl")
        return MostPasses(ascents * judged + clean, ascents * self.steps, 0.3 / self.restarts if stops else 1.0)

    @property
    def exhaustive(self) -> "PGD":
        return replace(self, early_stop=False) if self.keep == "best" else self

    def __call__(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        threat: ThreatModel,
        randomness: Randomness,
        objective: Callable[[Tensor], Tensor] | None = None,
    ) -> Tensor:
        """See `Attack`; `objective`, of a training method, gives the losses (N,) of logits (N, K) in place of `loss`.

        It needs keep="last" and no patience, so that its rows stay those of `x`.
        """
        assert objective is None or (self.keep == "last" and self.patience is None)
        self._refuse_norm(threat.norm)
        best = x.clone()
        if not len(x):
            return best
        highest = x.new_full((len(x),), -torch.inf)
        standing = torch.arange(len(x), device=x.device)
        with crafting(model):
            aims: list[tuple[Tensor, ...]] = [(y,)] if objective is None else [()]
            if objective is None and (self.loss == "kl" or self.loss in TARGETED):
                with torch.no_grad():
                    clean = model(x)
                aims = [(clean,)]
                if self.loss in TARGETED:
                    aims = [(y, target) for target in likeliest_wrong(clean, y, self.n_targets).T]
                if self.keep == "best" and self.early_stop:
                    standing = (clean.argmax(1) == y).nonzero()[:, 0]
            for aim in aims:
                for _ in range(self.restarts):
                    if len(standing):
                        loss = objective or LOSSES[self.loss]
                        standing = self._ascend(model, x, y, loss, aim, threat, randomness, standing, best, highest)
        return best

    def _refuse_norm(self, norm: str) -> None:
        if self.schedule == "apgd" and norm == "L1":
            raise BadInput("schedule='apgd' is for Linf and L2; use schedule='cosine', or the attack apgd-ce, for L1")
        for name, value in (("step_size", "sat"), ("init", "uniform-unclipped")):
            if getattr(self, name) == value and norm != "Linf":
                raise BadInput(f"{name}={value!r} is for Linf, not {norm}; leave it out")

    def _start(self, x: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        if self.init == "uniform":
            return threat.random_start(x, randomness)
        if self.init == "uniform-unclipped":
            return x + threat.eps * (2 * uniform(x, randomness) - 1)
        if self.init == "gaussian":
            return threat.project(x, x + GAUSSIAN_SIGMA * normal(x, randomness))
        return x.clone()

    def _mover(self, threat: ThreatModel, x: Tensor) -> Mover:
        ball = threat.around(x)
        if self.schedule == "apgd":
            return APGD(ball, self.steps)
        return Ascent(ball, self._step(threat), self.steps, self.schedule == "cosine", self.momentum)

    def _step(self, threat: ThreatModel) -> float:
        if self.step_size == "sat":
            return sat_step(threat.eps, self.steps)
        if self.step_size is not None:
            return float(self.step_size)
        if self.schedule == "cosine":
            return threat.eps
        step = default_step(threat.eps, self.steps)
        return max(step, threat.eps / 2) if self.keep == "best" and threat.norm != "Linf" else step

    def _ascend(
        self,
        model: nn.Module,
        x: Tensor,
        y: Tensor,
        loss: Callable[..., Tensor],
        aim: tuple[Tensor, ...],
        threat: ThreatModel,
        randomness: Randomness,
        standing: Tensor,
        best: Tensor,
        highest: Tensor,
    ) -> Tensor:
        """One restart on the rows `standing`: updates `best` and `highest` in place, returns the rows left standing."""
        memoryless = self.schedule == "fixed" and not self.momentum  # the next iterate follows from this one alone
        cycles = Cycles(len(x)) if memoryless and self.keep == "best" and self.early_stop else None
        settled, steepest = [], x.new_zeros(len(standing))
        patience = None if self.patience is None else y.new_full((len(standing),), self.patience)
        stays = patience is not None and uses_batch_statistics(model)
        x, y, aim = x[standing], y[standing], tuple(part[standing] for part in aim)
        mover = self._mover(threat, x)
        x_adv = self._start(x, threat, rows(randomness, standing))
        for iteration in range(self.steps + 1):
            last = iteration == self.steps
            if last and self.keep == "last":
                best[standing] = usable(x_adv, steepest)
                break
            logits, losses, grad = self._expected(model, x_adv, loss, aim, with_gradient=not last)
            if grad is not None and self.keep == "last":
                steepest = torch.maximum(steepest, grad.flatten(1).abs().amax(1))
            gone = repeats = None
            if self.keep == "best":
                fallen = (logits.argmax(1) != y) & self.early_stop
                candidate = self.early_stop or last or self.schedule == "apgd"
                better = (fallen | (losses > highest[standing]) & candidate).nonzero()[:, 0]
                best[standing[better]] = x_adv[better]
                highest[standing[better]] = losses[better].to(highest.dtype)
                repeats = cycles.repeats(standing, x_adv, losses) & ~fallen if cycles else torch.zeros_like(fallen)
                gone = fallen | repeats
            elif patience is not None:
                patience = patience - (logits.argmax(1) != y).long()
                stopped = patience <= 0
                best[standing[stopped]] = usable(x_adv, steepest)[stopped]
                if stays and grad is not None and not stopped.all():
                    moved = mover.move(iteration, x_adv, grad, losses)
                    x_adv = torch.where(stopped.view(-1, 1, 1, 1), x_adv, moved)
                    continue
                gone = stopped
            if gone is not None and gone.any():
                if repeats is not None:
                    settled.append(standing[repeats])
                left = (~gone).nonzero()[:, 0]
                standing, y, x_adv, losses = standing[left], y[left], x_adv[left], losses[left]
                aim, steepest = tuple(part[left] for part in aim), steepest[left]
                grad = None if grad is None else grad[left]
                patience = None if patience is None else patience[left]
                mover.keep(left)
                if not len(standing):
                    break
            if grad is not None:
                x_adv = mover.move(iteration, x_adv, grad, losses)
        return torch.cat([standing, *settled]).sort().values if settled else standing

    def _expected(
        self, model: nn.Module, x_adv: Tensor, loss: Callable[..., Tensor], aim: tuple[Tensor, ...], with_gradient: bool
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Logits (N, K), losses (N,) and, if wanted, the gradient at `x_adv`, all averaged over `eot` passes."""
        mean: list[Tensor] = []
        for _ in range(self.eot):
            point = x_adv.detach().requires_grad_(with_gradient)
            with torch.set_grad_enabled(with_gradient):
                logits = model(point)
                losses = loss(logits, *aim)
                one = [logits.detach(), losses.detach()]
                if with_gradient:
                    grad = input_gradient(losses, point)
                    one.append(finite(grad) if self.keep == "best" else grad)
            mean = [total + part for total, part in zip(mean, one, strict=True)] if mean else one
        if self.eot > 1:
            mean = [total / self.eot for total in mean]
        return mean[0], mean[1], mean[2] if with_gradient else None


def input_gradient(losses: Tensor, x_adv: Tensor) -> Tensor:
    """The gradient of the losses (N,) at images (N, C, H, W), like these; raises `BadInput` where there is none."""
    if not losses.requires_grad:
        raise BadInput(f"the model's logits have no gradient to its input; {BLACK_BOX}")
    return torch.autograd.grad(losses.sum(), x_adv)[0]


def finite(grad: Tensor) -> Tensor:
    """The gradient with 0 in place of entries that are NaN or infinite."""
    if grad.sum().isfinite():  # one pass over memory; a sum may also overflow
        return grad
    return grad.nan_to_num(0, 0, 0)


def usable(x_adv: Tensor, slopes: Tensor) -> Tensor:
    """The images (N, C, H, W), NaN where their slopes (N, ...) are not finite, so that the loss shows it."""
    finite = slopes.isfinite().reshape(len(slopes), -1).all(1)
    return torch.where(finite.view(-1, 1, 1, 1), x_adv, torch.nan)


def fgsm(loss: str = "ce", step_size: float | None = None, init: str = "zero") -> PGD:
    """The fast gradient sign method (Goodfellow et al. 2015, arXiv 1412.6572): one step of length eps."""
    return PGD(steps=1, step_size=step_size, loss=loss, init=init)


def sat_pgd(steps: int = 50) -> PGD:
    """PGD as released with SAT (Xie et al. 2020, arXiv 2006.14536), whose headline figures take 200 steps.

    Steps of max(1/255, eps / steps) from a uniform start that is not clipped to the box; the last iterate counts.
    """
    return PGD(steps=steps, step_size="sat", init="uniform-unclipped", keep="last")
