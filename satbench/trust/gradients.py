"""Checks of the gradient to the input: that there is one, and that it points somewhere."""

from collections.abc import Callable

import torch
from torch import Tensor

from satbench.attacks.knn_guided import readouts
from satbench.attacks.losses import ce, margin
from satbench.core.errors import FAULTS, reason
from satbench.numerics.seeding import generator, normal
from satbench.trust.seen import FEWEST, Seen, rate, surely_above
from satbench.trust.subject import NetworkFault, Subject

# L2 steps divide by the gradient's length, at least 1e-12; Linf and L1 take signs and order, down to denormal numbers
TINY = {"Linf": 1e-30, "L2": 1e-12, "L1": 1e-30}
BLIND = 0.1  # share of images without a usable gradient from which a white-box attack is not to be believed
STEP = 0.1  # of eps
OFF_BY = 2.0  # factor; on sound networks all but 2% of images stayed between 0.85 and 1.4
JUMPY = (
    0.5  # error of all steps over the sum of promises: up to 0.13 on sound networks, from 1.2 with k-winners-take-all
)
ROUNDING = 1e-5  # of the largest logit, some 100 roundings of float32
NUDGE = 1e-3  # about a quarter of a grey level of 8 bits
UNMOVED = 1e-5  # of the logits' standard deviation


def gradients(subject: Subject, count: int) -> Seen:
    """Share of images whose gradient is missing, not finite, zero or tiny, for cross-entropy and for the margin."""
    cross, plain = _slopes(subject, subject.x[:count], subject.y[:count], (ce, margin))
    if cross is None or plain is None:
        said = "Its logits have no gradient to its input"
        if readouts(subject.network):
            said += ": they are votes; knn-guided follows the representations"
            if "knn-guided" in subject.measured_by:
                return Seen("not checked", f"{said}, and has attacked it. No check here says how well.")
            return Seen("fail", f"{said}.", "knn-guided")
        return Seen("fail", f"{said}: nothing for a white-box attack to follow.", "square")
    if count < FEWEST:
        subject.moves = True
        return Seen("not checked", f"There is a gradient, but {count} images are too few; measure {FEWEST} or more.")
    lengths = [slope.flatten(1).double().norm(dim=1) for slope in (cross, plain)]
    broken = int((~torch.stack(lengths).isfinite()).any(0).sum())
    if broken:
        return Seen(
            "fail",
            f"The gradient to the input is NaN or infinite on {rate(broken, count)} images; an attack that follows it "
            "stands still there.",
            "square",
        )
    zero, flat = (int((length == 0).sum()) for length in lengths)
    least = TINY[subject.threat.norm]
    tiny = int((lengths[0] < least).sum())
    said = (
        f"On {count} images the gradient of cross-entropy is zero on {zero} and shorter than {least:g} on {tiny}, "
        f"that of the margin is zero on {flat}"
    )
    if flat == count:
        return Seen("fail", f"{said}: nothing for a white-box attack to follow.", "square")
    subject.moves = True
    if surely_above(flat, count, BLIND):
        return Seen("suspicious", f"{said}: white-box attacks are blind on {rate(flat, count)}.", "square")
    if surely_above(tiny, count, BLIND):
        return Seen("suspicious", f"{said}: cross-entropy is saturated on {rate(tiny, count)}.", "pgd:loss=margin")
    median = float(lengths[1].median())
    return Seen("pass", f"{said}; the margin's gradient has a median length of {median:.3g}.")


def _slopes(
    subject: Subject, x: Tensor, y: Tensor, losses: tuple[Callable[[Tensor, Tensor], Tensor], ...]
) -> list[Tensor | None]:
    """The gradient of each loss at `x`, None where there is none."""
    parts = []
    for given, labels in zip(torch.split(x, subject.at_once), torch.split(y, subject.at_once), strict=True):
        point = given.clone().requires_grad_()
        with torch.enable_grad():
            logits = subject.network(point)
            if not logits.requires_grad:
                return [None] * len(losses)
            try:
                slopes = [
                    torch.autograd.grad(loss(logits, labels).sum(), point, retain_graph=True, allow_unused=True)[0]
                    for loss in losses
                ]
            except torch.OutOfMemoryError:
                raise
            except FAULTS as error:
                raise NetworkFault(f"Its backward pass raises {reason(error)}.") from error
        parts.append(slopes)
    return [None if any(one is None for one in column) else torch.cat(column) for column in zip(*parts, strict=True)]


def direction(subject: Subject, count: int) -> Seen:
    """A short step along the gradient raises the margin by about what the gradient promises.

    Judged at random points of the ball, by the share of images where the step brings less than half or more than twice
    of it, and by the sum of all errors over the sum of all promises: a step of this length crosses a jump of a
    discontinuous network on few images, but is then wrong by many times its promise. Images without a gradient there,
    or with a promise lost in the rounding of float32 logits, say nothing about where gradients lead and are left out.
    """
    x, y, threat = subject.x[:count], subject.y[:count], subject.threat
    start = threat.random_start(x, generator(subject.seed, "trust", "direction"))
    logits, slope = subject.slope(start, y)
    moved = threat.ascend(x, start, slope, STEP * threat.eps)
    promised = (slope * (moved - start)).flatten(1).sum(1)
    kept = promised > ROUNDING * logits.abs().amax(1)
    n = int(kept.sum())
    said = f"At random points of the ball, {n} of {count} images have a gradient that promises a larger margin"
    if not n:
        return Seen("pass", f"{said}.")
    brought = subject.margins(moved[kept], y[kept]) - margin(logits, y)[kept]
    shares = brought / promised[kept]
    off = int(((shares < 1 / OFF_BY) | (shares > OFF_BY)).sum())
    error = float((brought - promised[kept]).abs().double().sum() / promised[kept].double().sum())
    said += (
        f"; a step of {STEP * threat.eps:.3g} brings {float(shares.median()):.2f} of it in the median, and less than "
        f"{1 / OFF_BY:g} or more than {OFF_BY:g} times as much on {rate(off, n)}; all errors together are {error:.2f} "
        "times all promises together"
    )
    if surely_above(off, n, BLIND):
        return Seen(
            "suspicious", f"{said}: the gradient is not that of the network, or changes within a step.", "square"
        )
    if error > JUMPY:
        return Seen("suspicious", f"{said}: the network jumps, and its gradient does not show where.", "autoattack")
    return Seen("pass", f"{said}.")


def quantisation(subject: Subject, count: int) -> Seen:
    """A change of every pixel by a quarter of a grey level changes the logits."""
    x = subject.x[:count]
    noise = NUDGE * normal(x, generator(subject.seed, "trust", "steps")).sign()
    again = subject.answer((x + noise).clamp(0, 1))
    change = (again - subject.logits[:count]).abs().amax(1) / subject.logits.std().clamp_min(1e-12)
    same, n = int((change < UNMOVED).sum()), len(x)
    said = f"Moving every pixel by {NUDGE:g} leaves the logits as they were on {rate(same, n)} images"
    if surely_above(same, n, BLIND):
        return Seen("suspicious", f"{said}: the input is quantised or the network a step function.", "square")
    return Seen("pass", f"{said}.")
