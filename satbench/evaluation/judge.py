"""Looks again at what an attack returned: the user's own network, in float32, decides."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from satbench.attacks.losses import margin
from satbench.errors import FAULTS, BadInput, reason
from satbench.threat import ThreatModel


@dataclass(frozen=True)
class Judged:
    """What the judge saw on returned examples: predictions int64 (N,), margins float32 (N,), "" or a violation each."""

    predictions: Tensor
    margins: Tensor
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


def judge(model: nn.Module, x: Tensor, x_adv: Tensor, y: Tensor, threat: ThreatModel) -> Judged:
    """Shape, finiteness, box, ball, and the model's answer; a row that violates the threat is never given to it.

    Such a row has prediction -1 and margin NaN.
    """
    if x_adv.shape != x.shape:
        raise BadInput(f"an attack returned shape {tuple(x_adv.shape)} for images of shape {tuple(x.shape)}")
    x_adv = x_adv.detach().float()
    valid = threat.contains(x, x_adv)
    predictions = torch.full_like(y, -1)
    margins = torch.full(y.shape, torch.nan, device=x.device)
    if valid.any():
        logits = logits_of(model, x_adv[valid], y[valid])
        predictions[valid], margins[valid] = logits.argmax(1), margin(logits, y[valid])
    violations = [""] * len(x)
    for i in (~valid).nonzero()[:, 0].tolist():
        violations[i] = _violation(x_adv[i])
    return Judged(predictions, margins, violations)


def _violation(x_adv: Tensor) -> str:
    """What is wrong with one returned example (C, H, W) that the threat does not contain."""
    if not x_adv.isfinite().all():
        return "not finite"
    return "outside the box" if bool((x_adv < 0).any() or (x_adv > 1).any()) else "outside the ball"
