"""The full form's checks by attacking: what more effort, or an attack without gradients, must not show."""

import math
from itertools import pairwise

from torch import Tensor

from satbench.attacks import PGD, Attack
from satbench.core.eps import format_eps
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.trust.search import ascent, random_squares
from satbench.trust.seen import Seen, rate, surely_above
from satbench.trust.subject import Subject

LEFT = 0.1  # share of images that an attack may leave where everything is allowed
LUCK = 0.01  # share of images by which a weaker attack may beat a stronger one
WEAKENED = 0.1  # share of images that cross-entropy may leave to the margin
UNSEEN = 0.005  # share of images that a search without gradients may add, after white-box attacks have tried again
TRIED_AGAIN = 16  # images that only an attack without gradients broke, at most
QUERIES = 2000
LOSS_STEPS, TRANSFERRED = 50, 50


def large_radius(subject: Subject, count: int) -> Seen:
    """Accuracy goes to 0 as the radius grows: within the whole box every image can become any other."""
    norm, start = subject.threat.norm, subject.threat.eps
    box = {"Linf": 1.0, "L2": math.sqrt(subject.x[0].numel()), "L1": float(subject.x[0].numel())}[norm]
    radii = [start * 2**i for i in range(1, 12) if start * 2**i < box] + [box]
    standing, n, told = subject.rows(count), count, []
    for radius in radii:
        attack = PGD(steps=20, loss="margin")
        fallen = subject.attack(attack, standing, f"radius {radius}", ThreatModel(norm, radius))
        standing = standing[~fallen]
        told.append(f"{100 * len(standing) / n:.1f}% at {format_eps(radius)}")
    said = f"Accuracy under {attack.steps} steps falls to {', '.join(told)} ({norm}, {n} images)"
    if surely_above(len(standing), n, LEFT):
        return Seen(
            "suspicious",
            f"{said}: within the whole box every image could be turned into another, so the attack fails on "
            f"{rate(len(standing), n)}.",
            "square",
        )
    return Seen("pass", f"{said}.")


def more_effort(subject: Subject, count: int) -> Seen:
    """More steps break what fewer steps break, and so do more restarts."""
    rows = subject.rows(count)
    attacks = {
        "1 step": PGD(steps=1, init="zero"),
        "10 steps": PGD(steps=10),
        "100 steps": PGD(steps=100),
        "100 steps and 5 restarts": PGD(steps=100, restarts=5),
    }
    subject.attacked = count
    fallen = {name: subject.attack(attack, rows, name) for name, attack in attacks.items()}
    told = ", ".join(f"{100 * (len(rows) - int(one.sum())) / count:.1f}% with {name}" for name, one in fallen.items())
    said = f"Robust accuracy on {count} images: {told}"
    names = list(fallen)
    for weaker, stronger in pairwise(names):
        lost, gained = only(fallen[weaker], fallen[stronger]), only(fallen[stronger], fallen[weaker])
        if better_by(lost, gained, LUCK * count):
            return Seen(
                "suspicious",
                f"{said}: {rate(lost, count)} fall to {weaker} but not to {stronger}, {gained} the other way round.",
                "autoattack",
            )
    return Seen("pass", f"{said}.")


def only(a: Tensor, b: Tensor) -> int:
    """How many fell to `a` and not to `b`."""
    return int((a & ~b).sum())


def better_by(ours: int, theirs: int, least: float) -> bool:
    """Whether an attack that alone breaks `ours` images beats one that alone breaks `theirs` by more than `least`.

    Luck is ruled out by the exact one-sided McNemar test at 1%.
    """
    from scipy.stats import binomtest

    return ours - theirs > least and float(binomtest(ours, ours + theirs, alternative="greater").pvalue) < 0.01


def other_loss(subject: Subject, count: int) -> Seen:
    """The margin as loss breaks little that cross-entropy leaves."""
    rows = subject.rows(count)
    subject.attacked = max(subject.attacked, count)
    fallen = {loss: subject.attack(PGD(steps=LOSS_STEPS, loss=loss), rows, loss) for loss in ("ce", "margin")}
    cross, plain = (int(one.sum()) for one in fallen.values())
    said = (
        f"{LOSS_STEPS} steps leave {rate(len(rows) - cross, count)} images with cross-entropy as loss and "
        f"{rate(len(rows) - plain, count)} with the margin"
    )
    gained, lost = only(fallen["margin"], fallen["ce"]), only(fallen["ce"], fallen["margin"])
    if better_by(gained, lost, WEAKENED * count):
        return Seen("suspicious", f"{said}: the scale of its logits weakens cross-entropy.", "pgd:loss=margin")
    return Seen("pass", f"{said}.")


def black_box(subject: Subject, count: int) -> Seen:
    """A search without gradients breaks nothing that white-box attacks leave standing."""
    count = min(count, subject.attacked)
    standing = _standing(subject, count, "before squares")
    x, y, draws = subject.x[standing], subject.y[standing], generator(subject.seed, "trust", "squares")
    fallen = standing[random_squares(subject, subject.threat, x, y, QUERIES, draws)]
    return _beyond(subject, fallen, count, f"{QUERIES} queries of a random search over squares")


def transfer(subject: Subject, count: int) -> Seen:
    """Examples made on another network break nothing that white-box attacks leave standing.

    Every iterate is judged on the network under examination, and the other network's verdict ends no search.
    """
    count = min(count, subject.attacked)
    standing = _standing(subject, count, "before transfer")
    x, y, draws = subject.x[standing], subject.y[standing], generator(subject.seed, "trust", "transfer")
    fallen = standing[ascent(subject, subject.threat, x, y, TRANSFERRED, 2, draws, source=subject.source)]
    return _beyond(subject, fallen, count, "examples made on the other network")


def _standing(subject: Subject, count: int, purpose: str) -> Tensor:
    """Images that no white-box attack has broken; a strong one tries them first."""
    rows = subject.rows(count)
    subject.attack(_targeted(subject, 50, 3, 1), rows[~subject.broken[rows]], purpose)
    return rows[~subject.broken[rows]]


def _beyond(subject: Subject, fallen: Tensor, count: int, what: str) -> Seen:
    """The verdict on images that fell to `what` alone."""
    n = len(fallen)
    said = f"{what[0].upper()}{what[1:]} break {rate(n, count)} images that white-box attacks leave standing"
    beyond = False
    if n:
        again = fallen[:TRIED_AGAIN]
        for attack in (PGD(steps=100, schedule=_schedule(subject), restarts=5), _targeted(subject, 100, 9, 2)):
            subject.attack(attack, again[~subject.broken[again]], "again")
        left = int((~subject.broken[again]).sum())
        said += f"; of {len(again)} tried again from 5 starts and towards 9 classes from 2, {left} still stand"
        beyond = left > 1 and left / len(again) * n > UNSEEN * count
    if beyond:
        return Seen("suspicious", f"{said}: its gradients hide examples that exist.", "square")
    return Seen("pass", f"{said}.")


def _targeted(subject: Subject, steps: int, targets: int, restarts: int) -> Attack:
    return PGD(steps=steps, loss="margin-targeted", schedule=_schedule(subject), n_targets=targets, restarts=restarts)


def _schedule(subject: Subject) -> str:
    return "cosine" if subject.threat.norm == "L1" else "apgd"
