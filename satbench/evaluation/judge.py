"""Checks what an attack returned: the user's own network, in float32, decides.

A network that draws random numbers decides by the majority of several passes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from satbench.attacks.losses import margin
from satbench.core.errors import FAULTS, BadInput, reason
from satbench.numerics.threat import ThreatModel

DRAWS = 10  # passes of a random network that vote, where the user does not say
STEADY = 1e-4  # of the largest logit: what two passes of a deterministic network may differ by


@dataclass(frozen=True)
class Vote:
    """Predictions int64 (N,), mean margins and shares of the passes that gave the label, float32 (N,)."""

    predictions: Tensor
    margins: Tensor
    correct_shares: Tensor


@dataclass(frozen=True)
class Judged(Vote):
    """The vote on returned examples, and "" or a violation for each."""

    violations: list[str]


def logits_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Float32 logits (N, K); output that cannot be judged against labels `y` raises `BadInput`."""
    with torch.no_grad():
        given = x.detach().float().clone()
        try:
            logits = model(given)
        except torch.OutOfMemoryError:
            raise
        except FAULTS as error:
            raise BadInput(f"the model failed on images of shape {tuple(x.shape)}: {reason(error)}") from error
    if not torch.equal(given, x.detach().float()):
        raise BadInput("the model changes its input in place; let it work on a copy")
    if not isinstance(logits, Tensor) or logits.ndim != 2 or len(logits) != len(x):
        shape = tuple(logits.shape) if isinstance(logits, Tensor) else type(logits).__name__
        raise BadInput(f"the model returned {shape} for {len(x)} images; expected logits ({len(x)}, classes)")
    if logits.shape[1] < 2:
        raise BadInput("the model has one class, so nothing can be misclassified; expected logits of two or more")
    if int(y.max()) >= logits.shape[1]:
        raise BadInput(f"labels go up to {int(y.max())} but the model has {logits.shape[1]} classes (0 to K-1)")
    bad = int((~logits.isfinite()).any(1).sum())
    if bad:
        raise BadInput(
            f"the model returned NaN or infinite logits for {bad} of {len(x)} images in a batch; nothing is saved"
        )
    return logits.float()


def is_random(model: nn.Module, x: Tensor, logits: Tensor) -> bool:
    """Whether another pass on images `x` gives other logits than `logits` (N, K), by more than a rounding error."""
    with torch.no_grad():
        again = model(x.detach().float().clone()).float()
    return bool((again - logits).abs().max() > STEADY * logits.abs().max())


def vote(model: nn.Module, x: Tensor, y: Tensor, draws: int) -> Vote:
    """The answer of `draws` passes to images `x` (N, C, H, W): the class that most of them give.

    Where the label `y` is not the only class with the most votes, the prediction is another one. Raises `BadInput` as
    `logits_of` does.
    """
    logits = logits_of(model, x, y)
    votes, margins = _one_hot(logits), margin(logits, y)
    for _ in range(draws - 1):
        logits = logits_of(model, x, y)
        votes, margins = votes + _one_hot(logits), margins + margin(logits, y)
    given = votes.gather(1, y[:, None])[:, 0]
    predictions = (votes - 0.5 * functional.one_hot(y, votes.shape[1])).argmax(1)  # a tie is lost
    return Vote(predictions, margins / draws, given / draws)


def _one_hot(logits: Tensor) -> Tensor:
    return functional.one_hot(logits.argmax(1), logits.shape[1]).float()


def judge(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: ThreatModel, draws: int = 1) -> Judged:
    """Finiteness, box, ball, and the model's answer; a row that violates the threat is never given to it.

    x_adv: of the shape of `x`. Such a row has prediction -1, margin NaN and share NaN.
    """
    x_adv = x_adv.detach().float()
    valid = threat.contains(x, x_adv)
    predictions = torch.full_like(y, -1)
    margins, shares = (torch.full(y.shape, torch.nan, device=x.device) for _ in range(2))
    if valid.any():
        seen = vote(model, x_adv[valid], y[valid], draws)
        predictions[valid], margins[valid], shares[valid] = seen.predictions, seen.margins, seen.correct_shares
    violations = [""] * len(x)
    for i in (~valid).nonzero()[:, 0].tolist():
        violations[i] = _violation(x_adv[i])
    return Judged(predictions, margins, shares, violations)


def _violation(x_adv: Tensor) -> str:
    """What is wrong with one returned example (C, H, W) that the threat does not contain."""
    if not x_adv.isfinite().all():
        return "not finite"
    return "outside the box" if bool((x_adv < 0).any() or (x_adv > 1).any()) else "outside the ball"
