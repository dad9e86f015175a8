"""Holds what was measured against what was approved: bit for bit, paired, or against a published rate.

- Bit for bit on equal numerics, where outcomes are deterministic: one flipped image is a change, also one that got
  better, and flips that cancel. A tolerance takes part only where the network is another one: other weights, or a
  training with other settings.
- Paired elsewhere, on the same images, two-sided: see `results.sequential`. The p-values of all figures of a suite are
  adjusted by Holm; as each is valid whenever the images end, so is Holm's rule on them.
- Against a published rate, once all images are measured, by the intervals of both counts.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np

from satbench.core.errors import BadInput
from satbench.regression.baseline import APPROVE, Baseline, Measured, Right
from satbench.regression.verdict import FigureVerdict, NetworkVerdict, State
from satbench.results.crossed import holm
from satbench.results.schema import Trust
from satbench.results.schema import Verdict as TrustVerdict
from satbench.results.sequential import LEVEL, Steps, confidence, excludes, p_moved, p_published
from satbench.specs.study import Published

AGAIN = f"restore the study file and its baseline from version control, or approve the suite again with `{APPROVE}`"
TRUST: tuple[TrustVerdict, ...] = get_args(TrustVerdict)


@dataclass(frozen=True)
class Expected:
    """What is expected of one network in one evaluation; sizes are fractions.

    approved: None where only rates are `published`. tolerance: by the name of the figure. images: of the evaluation.
    by_units: whether an attack draws for many images together, so that bits are only those of the whole run.
    """

    measured: str
    approved: Measured | None
    published: Mapping[str, Published]
    tolerance: Mapping[str, float]
    drop: float
    images: int
    by_units: bool = False


@dataclass(frozen=True)
class Seen:
    """What was measured of it so far.

    ids: the first images, n of them. figures: whether each is right, (n,). network, training, numerics: as in
    `Measured`.
    """

    ids: Sequence[str]
    figures: Mapping[str, Right]
    network: str
    training: str | None
    numerics: str
    trust: Trust | None
    passes: int


def check_same(measured: str, approved: Measured, asked: str, data: str, n: int) -> None:
    """Raise `BadInput` where the suite asks for other figures, or has other images, than what was approved."""
    for name, one in approved.figures.items():
        if one.n != n:
            raise BadInput(f"{measured}: {name} was approved on {one.n} images, the suite has {n}; {AGAIN}")
    if asked != approved.asked:
        raise BadInput(
            f"{measured}: the evaluation (attacks, threats, images or another setting of the study file) is not the "
            f"one that was approved; {AGAIN}"
        )
    if data != approved.data:
        raise BadInput(
            f"{measured}: the images (digest {data}) are not those that were approved ({approved.data}); restore them, "
            f"or approve the suite again with `{APPROVE}`"
        )


def check_figures(expected: Expected, found: Sequence[str]) -> None:
    """Raise `BadInput` where a figure was approved, published or given a tolerance, and is not measured, or new."""
    if expected.approved is not None and set(expected.approved.figures) != set(found):
        first = min(set(expected.approved.figures) ^ set(found))
        where = "measured and not approved" if first in found else "approved and not measured"
        raise BadInput(f"{expected.measured}: the figure {first!r} is {where}; {AGAIN}")
    for name in (*expected.published, *expected.tolerance):
        if name not in found:
            raise BadInput(f"{expected.measured}: there is no figure {name!r}; the figures are {', '.join(found)}")


def is_exact(approved: Measured, seen: Seen, tolerance: float) -> bool:
    """Whether outcomes must be equal bit for bit."""
    if not approved.numerics or approved.numerics != seen.numerics:
        return False
    same_training = approved.training is not None and approved.training == seen.training
    return not tolerance or same_training or approved.network == seen.network


def judge(pairs: Sequence[tuple[Expected, Seen]]) -> tuple[NetworkVerdict, ...]:
    """A verdict for every network of a suite on the images seen so far."""
    found = [[_figure(expected, seen, name) for name in _compared(expected, seen)] for expected, seen in pairs]
    adjusted = iter(holm([one.p_value for figures in found for one in figures if one.p_value is not None]))
    verdicts = []
    for (expected, seen), figures in zip(pairs, found, strict=True):
        settled = [one if one.p_value is None else _tested(one, next(adjusted)) for one in figures]
        before = None if expected.approved is None else expected.approved.trust
        now = None if seen.trust is None else seen.trust.verdict
        is_whole = len(seen.ids) == expected.images
        verdicts.append(
            NetworkVerdict(
                measured=expected.measured,
                n=len(seen.ids),
                images=expected.images,
                digest_before="" if expected.approved is None else expected.approved.network,
                digest_now=seen.network,
                trust_before=before,
                trust_now=now,
                trust_reasons=reasons(seen.trust),
                trust_state=trust_state(before, now, is_whole, any(one.rose for one in settled)),
                figures=tuple(settled),
                passes=seen.passes,
            )
        )
    return tuple(verdicts)


def trust_state(before: TrustVerdict | None, now: TrustVerdict | None, is_whole: bool, rose: bool = False) -> State:
    """Whether trust fell. Fewer images can look worse by their number, so only "fail" settles it before the last.

    rose: whether a figure rose; trust that could not be checked is then looked at on more images.
    """
    if rose and now == "not checked" and not is_whole:
        return "open"
    if before is None or now is None or TRUST.index(now) <= TRUST.index(before):
        return "unchanged"
    return "changed" if is_whole or now == "fail" else "open"


def _compared(expected: Expected, seen: Seen) -> list[str]:
    return list(seen.figures if expected.approved is not None else expected.published)


def _figure(expected: Expected, seen: Seen, name: str) -> FigureVerdict:
    """A figure by itself; what is tested has a p-value that is not adjusted yet."""
    now, n = seen.figures[name], len(seen.ids)
    tolerance, is_whole = expected.tolerance.get(name, 0.0), n == expected.images
    made = FigureVerdict(
        measured=expected.measured,
        figure=name,
        basis="published",
        state="open",
        n=n,
        images=expected.images,
        before=0.0,
        now=int(now.sum()),
        lost=(),
        gained=(),
        p_value=1.0,
        interval=None,
        tolerance=tolerance,
        drop=expected.drop,
        is_excluded=False,
    )
    if expected.approved is None:
        said = expected.published[name]
        p_value = p_published(made.now, n, said.rate / 100, said.n, tolerance) if is_whole else 1.0
        return replace(made, before=said.rate / 100 * n, p_value=p_value, state="unchanged" if is_whole else "open")
    before = expected.approved.figures[name].unpacked[:n]
    steps: Steps = now.astype(np.int8) - before.astype(np.int8)
    made = replace(
        made,
        before=float(before.sum()),
        lost=tuple(np.asarray(seen.ids)[steps < 0].tolist()),
        gained=tuple(np.asarray(seen.ids)[steps > 0].tolist()),
        interval=confidence(steps),
    )
    if not is_exact(expected.approved, seen, tolerance):
        is_excluded = excludes(steps, tolerance + expected.drop)
        state: State = "unchanged" if is_whole or is_excluded else "open"
        return replace(
            made, basis="paired", state=state, is_excluded=is_excluded, p_value=p_moved(steps, tolerance, is_whole)
        )
    made = replace(made, tolerance=0.0)
    is_excluded = excludes(steps, expected.drop)
    state = "changed" if steps.any() else "unchanged" if is_whole or is_excluded else "open"
    if expected.by_units and not is_whole:
        state = "open"
    return replace(made, basis="bit for bit", state=state, is_excluded=is_excluded, p_value=None)


def _tested(figure: FigureVerdict, adjusted: float) -> FigureVerdict:
    return replace(figure, p_value=adjusted, state="changed" if adjusted <= LEVEL else figure.state)


def reasons(trust: Trust | None) -> tuple[str, ...]:
    """The sentences that a trust verdict rests on; none for a pass."""
    if trust is None or trust.verdict == "pass":
        return ()
    return tuple(f"{one.check}: {one.sentence}" for one in trust.findings if one.outcome == trust.verdict)


def changes(old: Baseline, new: Baseline) -> list[str]:
    """What approving the second in place of the first changes, a sentence each."""
    said = [f"{name}: no longer measured" for name in old.measured if name not in new.measured]
    for name, now in new.measured.items():
        before = old.measured.get(name)
        if before is None:
            said.append(f"{name}: new")
            continue
        for what in ("asked", "data", "network", "training", "trust"):
            if getattr(before, what) != getattr(now, what):
                said.append(f"{name}: {what} {getattr(before, what)} -> {getattr(now, what)}")
        said += [f"{name}: {figure}: no longer measured" for figure in before.figures if figure not in now.figures]
        for figure, one in now.figures.items():
            other = before.figures.get(figure)
            if other is None:
                said.append(f"{name}: {figure}: new, {one.right} of {one.n} right")
            elif other != one:
                flips = ""
                if before.data == now.data:
                    lost, gained = other.unpacked & ~one.unpacked, one.unpacked & ~other.unpacked
                    flips = f"; {int(lost.sum())} images lost, {int(gained.sum())} gained"
                said.append(f"{name}: {figure}: {other.right} of {other.n} right -> {one.right} of {one.n}{flips}")
    return said
