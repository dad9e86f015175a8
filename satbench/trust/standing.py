"""Whether images that a run's attacks left standing fall to other searches: how much too high its number is."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from satbench.attacks import PGD
from satbench.core.eps import format_eps
from satbench.core.errors import BadInput
from satbench.data import Images
from satbench.numerics.seeding import derive, generator
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import wilson
from satbench.trust.search import ascent, ascent_passes, between_means, class_means, random_squares
from satbench.trust.seen import FEWEST, Seen, rate
from satbench.trust.subject import Subject

# A number is doubted when examples in hand prove it too high by more than `INFLATED` of all images, so sound ones are
# never doubted by chance. PGD with 10 steps ends 1 to 3 points above AutoAttack on networks without a fault.
INFLATED = 0.03
# A pass says that the estimate is within `ESTIMATED`, because these searches find from half to all of what AutoAttack
# finds on networks whose gradients are sound, and that its 95% interval excludes `EXCLUDED`. Networks that mask their
# gradients are mostly inflated by far more than that; excluding 0.03 would take some four times the images.
ESTIMATED, EXCLUDED = INFLATED / 2, 0.10
PROOF = 5  # images at least: two or three fall on any network that 10 steps of PGD have attacked
AT_ONCE = 16  # images between two looks at what has been found
DEEP = 64  # images that the longer searches see at most: none of 32 random ones leaves at most 10.7% of the rest
STEPS, TARGETS, QUERIES = 5, 2, 40  # of the first round; each later one takes twice as much of all three
ROUNDS = 3
PGD_PASSES = 22  # of 10 steps and the look at what they return
SPREAD = 0.3  # of eps, of the points at which the second kind of ascent takes its gradients
BEFORE_SQUARES = 0.8  # share of the passes for everything before the random search over squares


@dataclass(frozen=True)
class Left:
    """Images that all attacks of a run left standing at one threat, in the order in which they are searched.

    load: images (M, C, H, W) and labels (M,) at these positions of the order. n: images of the run. at_random: which of
    the m standing ones are the random half of the order; the others come by their margin, nearest to an error first.
    means: class means, as `search.class_means` gives them.
    """

    load: Callable[[list[int]], tuple[Tensor, Tensor]]
    threat: ThreatModel
    n: int
    at_random: np.ndarray
    means: tuple[Tensor, Tensor]

    @property
    def m(self) -> int:
        return len(self.at_random)


def left_by(records: pd.DataFrame, images: Images, threat: ThreatModel, seed: int) -> Left:
    """What stands by these records, at the threat given or, where next to nothing does, at the largest smaller radius.

    Raises `BadInput` for records of other images.
    """
    place = {sample_id: i for i, sample_id in enumerate(images.ids)}
    known = records[records["norm"] == threat.norm]
    if known.empty or not known["sample_id"].isin(list(place)).all():
        raise BadInput(f"the records are not of these images at {threat.norm}; give the images and threat of their run")
    radii = sorted(known.loc[known["eps"] <= threat.eps, "eps"].unique(), reverse=True) or [known["eps"].min()]
    for eps in radii:
        samples = known[known["eps"] == eps].groupby("sample_id", sort=True)
        stand = samples["margin"].max()[~samples["broken"].any()]
        if len(stand) > INFLATED * samples.ngroups:
            break
    ids, margins = stand.index.to_numpy(), stand.fillna(-np.inf).to_numpy()
    order, at_random = _interleaved(margins, seed)
    rows = [place[ids[i]] for i in order]

    def load(positions: list[int]) -> tuple[Tensor, Tensor]:
        _, x, y = next(iter(images.take([rows[i] for i in positions]).batches(len(positions))))
        return x, y

    return Left(load, ThreatModel(threat.norm, float(eps)), samples.ngroups, at_random, class_means(images))


def left_by_pgd(subject: Subject, allowed: int | None, images: Images) -> Left:
    """What PGD with 10 steps leaves of the subject's first images; the stand-in for the records of a run.

    Takes at most half of the passes `allowed`.
    """
    count = len(subject.x) if allowed is None else min(len(subject.x), allowed // 2 // PGD_PASSES)
    rows = subject.rows(count)
    rows = rows[~subject.attack(PGD(), rows, "standing")]
    margins = -subject.logits[rows].topk(2, 1).values.diff(dim=1).abs()[:, 0]
    order, at_random = _interleaved(margins.cpu().numpy(), subject.seed)
    rows = rows[torch.as_tensor(order, device=rows.device, dtype=torch.int64)]

    def load(positions: list[int]) -> tuple[Tensor, Tensor]:
        return subject.x[rows[positions]], subject.y[rows[positions]]

    return Left(load, subject.threat, count, at_random, class_means(images))


def _interleaved(margins: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """An order that takes the largest of `margins` and a random other one in turn, and which are the random ones."""
    drawn = np.random.default_rng(derive(seed, "trust", "order")).permutation(len(margins))
    queues = iter(np.argsort(-margins, kind="stable").tolist()), iter(drawn.tolist())
    order: dict[int, None] = {}
    for position in range(len(margins)):
        order[next(i for i in queues[position % 2] if i not in order)] = None
    return np.array(list(order), dtype=np.int64), np.arange(len(order)) % 2 == 1


class _Hunt:
    """Searches the images of `left` in order until `INFLATED` is proven or `allowed` passes are spent.

    blind: fell without gradients, led: fell to an ascent; bool (m,).
    """

    def __init__(self, subject: Subject, left: Left, allowed: int | None) -> None:
        self.subject, self.left = subject, left
        self.start = subject.network.tally.passes
        self.allowed = 10**12 if allowed is None else allowed
        self.blind, self.led = (np.zeros(left.m, dtype=bool) for _ in range(2))

    @property
    def fallen(self) -> int:
        return int((self.blind | self.led).sum())

    @property
    def proven(self) -> bool:
        return self.fallen >= PROOF and self.fallen > INFLATED * self.left.n

    def each(self, first: int, cost: int, share: float = 1.0) -> Iterator[tuple[list[int], Tensor, Tensor]]:
        """Batches of the standing ones among the first images, while `cost` passes each are within the `share`."""
        at = 0
        while at < first and not self.proven:
            spent = self.subject.network.tally.passes - self.start
            fitting = min(AT_ONCE, first - at, int(share * self.allowed - spent) // cost)
            if fitting < 1:
                return
            positions = [i for i in range(at, at + fitting) if not (self.blind[i] or self.led[i])]
            at += fitting
            if positions:
                x, y = self.left.load(positions)
                device = self.subject.x.device
                yield positions, x.to(device), y.to(device)
            self.seen = at

    def run(self) -> int:
        """How many images, from the first, were searched by class means and by an ascent."""
        subject, left = self.subject, self.left
        draws = generator(subject.seed, "trust", "standing")
        means, classes = (part.to(subject.x.device) for part in left.means)
        self.seen = 0
        for positions, x, y in self.each(left.m, 1, 0.5):
            self.blind[positions] = between_means(subject, left.threat, x, y, means, classes).cpu().numpy()
        searched = self.seen
        deep = min(left.m, DEEP)
        for number in range(ROUNDS):
            steps, targets, queries = STEPS * 2**number, TARGETS * 2**number, QUERIES * 2**number
            cost = ascent_passes(steps, targets)
            self.seen = 0
            if subject.moves:
                for positions, x, y in self.each(deep, cost, 1.0 if number else BEFORE_SQUARES):
                    self.led[positions] = ascent(subject, left.threat, x, y, steps, targets, draws).cpu().numpy()
            searched = searched if number else min(searched, self.seen)
            for positions, x, y in self.each(deep, queries + cost * subject.moves):
                blind = random_squares(subject, left.threat, x, y, queries, draws)
                self.blind[positions] = blind.cpu().numpy()
                if subject.moves:
                    rest = (~blind).nonzero()[:, 0]
                    led = ascent(subject, left.threat, x[rest], y[rest], steps, targets, draws, SPREAD)
                    self.led[[positions[i] for i in rest.tolist()]] = led.cpu().numpy()
        return searched


def inflation(left: Left, fallen: np.ndarray, searched: int) -> tuple[float, float]:
    """By how much of all images the run's number is too high: an estimate, and the upper end of a 95% interval.

    Of the first `searched` images all that fell are known. The random ones among them are a sample of the rest.
    """
    rest = left.m - searched - int(fallen[searched:].sum())
    if not rest:
        return fallen.sum() / left.n, fallen.sum() / left.n
    drawn = left.at_random[:searched]
    hits, tried = int(fallen[:searched][drawn].sum()), int(drawn.sum())
    if not tried:
        return fallen.sum() / left.n, (fallen.sum() + rest) / left.n
    high = wilson(hits, tried)[1]
    return (fallen.sum() + rest * hits / tried) / left.n, (fallen.sum() + rest * high) / left.n


def standing(subject: Subject, left: Left, allowed: int | None) -> Seen:
    """Few images that a run left standing fall to searches without gradients or along other gradients."""
    threat = f"{left.threat.norm} {format_eps(left.threat.eps)}"
    said = f"{rate(left.m, left.n)} images stand at {threat}"
    if left.n < FEWEST:
        return Seen("not checked", f"{said}; that is too few to judge a number by: measure {FEWEST} images or more.")
    if left.m <= INFLATED * left.n:
        return Seen("pass", f"{said}: a robust accuracy that can hardly be too high.")
    hunt = _Hunt(subject, left, allowed)
    searched = hunt.run()
    fallen = hunt.blind | hunt.led
    count, blind = int(fallen.sum()), int(hunt.blind.sum())
    said += (
        f"; {count} of them fall, {blind} without gradients and {count - blind} to ascents of the margin, "
        f"in searches of which {searched} met both kinds"
    )
    if hunt.proven:
        return Seen(
            "suspicious",
            f"{said}: the robust accuracy of the run is too high by at least {100 * count / left.n:.1f} points.",
            "square" if 2 * blind > count else "autoattack",
        )
    estimate, high = inflation(left, fallen, searched)
    if searched < left.m:
        said += f": an estimated {100 * estimate:.1f} [{100 * count / left.n:.1f}, {100 * high:.1f}] points too high"
    else:
        said += f", which were all: by these searches {100 * estimate:.1f} points too high"
    if searched < min(FEWEST, left.m) or high > EXCLUDED:
        return Seen(
            "not checked", f"{said}, of which {100 * EXCLUDED:g} are not excluded. {_price(left, fallen, searched)}"
        )
    if estimate > ESTIMATED:
        return Seen(
            "not checked",
            f"{said}; short searches find about half of what a strong attack finds, so this may exceed "
            f"{100 * INFLATED:g} points.",
            "autoattack",
        )
    return Seen("pass", f"{said}.")


def _price(left: Left, fallen: np.ndarray, searched: int) -> str:
    """What excluding an inflation of `EXCLUDED` takes if no more images fall."""
    wanted = next(
        (s for s in range(searched, left.m) if inflation(left, fallen, s)[1] <= EXCLUDED and s >= FEWEST), left.m
    )
    passes = left.m + ascent_passes(STEPS, TARGETS) * wanted
    return (
        f"That takes about {passes:,} passes, and this form takes a tenth of the run's: give more steps or images, or "
        f"run satbench trust MODEL --norm {left.threat.norm} --eps {format_eps(left.threat.eps)}."
    )
