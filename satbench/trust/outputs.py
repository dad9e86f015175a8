"""Checks of what the network answers: no gradient is taken here."""

import torch
from torch import Tensor

from satbench.trust.seen import Seen, rate, surely_above
from satbench.trust.subject import NetworkFault, Subject

BLIND_GAP = 104.0  # between two logits: the probability exp(-104) of the smaller one is 0 in float32
FLAT_SPREAD = 0.1  # below it all wrong classes weigh the same within 10% in the gradient of cross-entropy
SAME = 0.02  # of the logits' standard deviation: what kernels for other batch sizes may differ by
STEADY = 1e-3  # the same for the same images twice
COUNTERS = 2  # images asked again where buffers move, to tell a counter from a state
ALONE = 8  # images that are shown one at a time


def outputs(subject: Subject, count: int) -> Seen:
    """Finite logits that depend on the image, no probabilities, and with differences that cross-entropy can see.

    A large number added to all logits of an image changes no attack, so their size alone says nothing.
    """
    logits = subject.answer(subject.x)
    if int(subject.y.max()) >= logits.shape[1]:
        return Seen("fail", f"Labels go up to {int(subject.y.max())} but it knows {logits.shape[1]} classes.")
    subject.logits = logits
    n, low, high = len(logits), float(logits.min()), float(logits.max())
    span = f"from {low:.4g} to {high:.4g} on {n} images"
    if n > 1 and (logits == logits[:1]).all():
        return Seen("fail", f"It gives the same logits for all of {n} different images.")
    subject.usable = True
    if low >= 0 and high <= 1 + 1e-6 and ((logits.sum(1) - 1).abs() < 1e-3).all():
        return Seen(
            "suspicious",
            f"All {n} rows of its output lie in [0, 1] and sum to 1: these are probabilities, on which cross-entropy "
            "has hardly a gradient; let it return logits.",
            "autoattack",
        )
    top = logits.topk(2, dim=1).values
    gap, spread = float((top[:, 0] - top[:, 1]).median()), float((logits.amax(1) - logits.amin(1)).median())
    apart = f"the first is above the second by {gap:.3g} in the median and above the last by {spread:.3g}"
    if gap > BLIND_GAP:
        return Seen(
            "suspicious",
            f"Logits go {span}; {apart}: float32 cross-entropy and its gradient vanish at such a scale.",
            "pgd:loss=margin",
        )
    if spread < FLAT_SPREAD:
        return Seen(
            "suspicious",
            f"Logits go {span}; {apart}: cross-entropy cannot tell the likeliest wrong class from the others at such a "
            "scale.",
            "pgd:loss=margin",
        )
    return Seen("pass", f"Logits are finite and go {span}; {apart}.")


def modes(subject: Subject, count: int) -> Seen:
    """Everything follows eval(), and no buffer moves while the network answers."""
    moved = subject.moved()
    if moved and bool(
        (_changes(subject, subject.answer(subject.x[:COUNTERS]), subject.logits[:COUNTERS]) > SAME).any()
    ):
        return Seen(
            "suspicious",
            f"Answering {len(subject.x)} images in eval mode moves {len(moved)} of its buffers, the first {moved[0]}: "
            "its answers depend on what it saw before.",
            "autoattack:version=rand",
        )
    training = [name or "the network" for name, module in subject.network.model.named_modules() if module.training]
    if training:
        return Seen(
            "suspicious",
            f"After eval(), {len(training)} of its modules are still in training mode, the first {training[0]}.",
            "autoattack:version=rand",
        )
    total = sum(1 for _ in subject.network.model.modules())
    counters = f"; {len(moved)} of its buffers move, such as {moved[0]}, and its answers stay the same" if moved else ""
    return Seen("pass", f"All {total} modules follow eval(){counters}.")


def randomness(subject: Subject, count: int) -> Seen:
    """The same images twice give the same logits."""
    rows = slice(0, count)
    again = subject.answer(subject.x[rows])
    change = _changes(subject, again, subject.logits[rows])
    changed, n = int((change > STEADY).sum()), len(again)
    flips = int((again.argmax(1) != subject.logits[rows].argmax(1)).sum())
    subject.steady = not changed
    if changed:
        return Seen(
            "suspicious",
            f"Asked twice, it changes its logits on {rate(changed, n)} images and its prediction on {flips}: one pass "
            "is no judge of an example, and the attack has to average over passes.",
            "autoattack:version=rand",
        )
    return Seen("pass", f"Asked twice, it gives the same logits on all {n} images.")


def batches(subject: Subject, count: int) -> Seen:
    """An image alone, or among others, gives the logits of the whole batch."""
    order = torch.arange(count - 1, -1, -1, device=subject.x.device)
    alone = min(ALONE, count)
    parts = [*torch.split(order[:alone], 1), *torch.split(order[alone:], 3)]
    again = torch.cat([subject.answer(subject.x[part]) for part in parts if len(part)])
    before = subject.logits[order]
    change = _changes(subject, again, before)
    changed, flips = int((change > SAME).sum()), int((again.argmax(1) != before.argmax(1)).sum())
    if changed:
        return Seen(
            "fail" if surely_above(flips, count, 0.05) else "suspicious",
            f"In batches of 1 and 3 instead of {min(count, subject.at_once)}, its logits change on "
            f"{rate(changed, count)} images and its prediction on {flips}: "
            "what it says of an image depends on the other images of the batch.",
            "autoattack",
        )
    return Seen("pass", f"In batches of 1 and 3 it gives the same logits as in large ones, on all {count} images.")


def input_range(subject: Subject, count: int) -> Seen:
    """Pixels in [0, 1] are what it was made for."""
    x, y = subject.x[:count], subject.y[:count]
    classes = subject.logits.shape[1]
    right, n = int(subject.correct[:count].sum()), len(x)
    others = {"0 to 255": 255 * x, "-1 to 1": 2 * x - 1}
    found = {name: _right(subject, given, y) for name, given in others.items()}
    better, most = max(found.items(), key=lambda item: item[1])
    if surely_above(most, n, right / n + 0.1):
        return Seen(
            "fail",
            f"It is right on {rate(most, n)} images with pixels from {better}, and on {rate(right, n)} with pixels "
            "from 0 to 1, which is what the radius is measured in: put the scaling into the network.",
        )
    if n >= 16 and not surely_above(right, n, 1 / classes):
        return Seen(
            "suspicious",
            f"It is right on {rate(right, n)} images of {classes} classes, which guessing reaches: look at the scale "
            "of its input and at the order of its classes.",
        )
    return Seen(
        "pass",
        f"It is right on {rate(right, n)} images with pixels from 0 to 1; with pixels from 0 to 255 on "
        f"{found['0 to 255']}, from -1 to 1 on {found['-1 to 1']}.",
    )


def _right(subject: Subject, x: Tensor, y: Tensor) -> int:
    """On how many images it is right; none where it refuses pixels outside [0, 1]."""
    try:
        return int((subject.answer(x).argmax(1) == y).sum())
    except NetworkFault:
        return 0


def _changes(subject: Subject, again: Tensor, before: Tensor) -> Tensor:
    """The largest change of each image's logits, (N,), in standard deviations of all logits."""
    return (again - before).abs().amax(1) / subject.logits.std().clamp_min(1e-12)
