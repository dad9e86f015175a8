"""Whether a robustness number can be believed: checks that a sound network, soundly attacked, passes."""

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, get_args

import pandas as pd
import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.core.progress import Progress, silent
from satbench.data import Images
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import clean_table
from satbench.results.schema import Finding, Trust, Verdict
from satbench.specs.attack import AttackInfo
from satbench.trust import clean, gradients, outputs, strength
from satbench.trust.records import RECORD_CHECKS
from satbench.trust.seen import FEWEST, Seen
from satbench.trust.standing import left_by, left_by_pgd, standing
from satbench.trust.subject import Counting, NetworkFault, Subject, Tally, images_at_once, reseed, sample, undisturbed

SAMPLE = {"quick": 64, "full": 1000}  # images at most
BASIC_SHARE = 0.125  # of the budget, for all checks but the search of standing images, if `FEWEST` images take less
SHOWN_BY = {"logits": "outputs", "steady": "randomness", "gradient": "gradients"}  # needs, and checks
ORDER: tuple[Verdict, ...] = get_args(Verdict)
LACKING = {
    "logits": "there are no usable logits",
    "gradient": "there is no gradient to follow",
    "radius": "the radius is 0",
    "white-box": "no white-box attack ran",
    "source": "no other network is given",
}
RANDOM = Seen(
    "not checked",
    "Its output is random, so one answer does not say whether an example breaks it; measure it by an attack that "
    "averages over answers.",
    "autoattack:version=rand",
)


@dataclass(frozen=True)
class Check:
    """A check of the tables below: called with a subject and how many of its images to look at.

    `cost`: passes an image that the quick form takes at most. `needs`: as `Subject.has` takes them. `fewest`: images
    below which it is not run, 1 where a single image is proof.
    """

    asks: str
    run: Callable[[Subject, int], Seen]
    cost: int
    needs: tuple[str, ...]
    fewest: int = FEWEST


MOVES = ("logits", "steady", "gradient", "radius")
BEYOND = (*MOVES, "white-box")
FIRST: dict[str, Check] = {
    "outputs": Check("Are the outputs finite logits of a usable scale?", outputs.outputs, 1, (), 1),
    "modes": Check(
        "Does everything in the network follow eval(), and stay as it is?", outputs.modes, 0, ("logits",), 1
    ),
    "randomness": Check("Does it answer the same twice?", outputs.randomness, 1, ("logits",), 1),
    "gradients": Check(
        "Is there a gradient to the input, finite and not zero?", gradients.gradients, 3, ("logits",), 1
    ),
}
STANDING = "standing images"
LATER: dict[str, Check] = {
    "direction": Check("Does the gradient promise what a step along it brings?", gradients.direction, 3, MOVES),
    "batches": Check("Does it answer the same alone and among other images?", outputs.batches, 1, ("logits", "steady")),
    "quantisation": Check(
        "Does it notice a quarter of a grey level in every pixel?", gradients.quantisation, 1, ("logits", "steady")
    ),
    "input range": Check("Is it made for pixels in [0, 1]?", outputs.input_range, 2, ("logits", "steady")),
}
ATTACKS: dict[str, Check] = {
    "more effort": Check("Do more steps and more restarts break what fewer break?", strength.more_effort, 0, MOVES),
    "large radius": Check("Does accuracy go to 0 as the radius grows?", strength.large_radius, 0, MOVES),
    "other loss": Check("Does cross-entropy break what the margin breaks?", strength.other_loss, 0, MOVES),
    "black box": Check("Does a search without gradients break nothing more?", strength.black_box, 0, BEYOND),
    "transfer": Check("Do examples of another network break nothing more?", strength.transfer, 0, ("source", *BEYOND)),
}
ASKS = {
    **{name: check.asks for name, check in (FIRST | LATER | ATTACKS).items()},
    STANDING: "Do images that the run's attacks left standing fall to other searches?",
}


def examine(
    model: nn.Module,
    images: Images,
    threat: ThreatModel,
    seed: int = 0,
    depth: Literal["quick", "full"] = "quick",
    budget: int | None = None,
    clean_accuracy: tuple[int, int] | None = None,
    expected_clean: tuple[float, int] | None = None,
    records: pd.DataFrame | None = None,
    attacks: Sequence[AttackInfo] = (),
    source: nn.Module | None = None,
    progress: Progress = silent,
) -> Trust:
    """Check whether what attacks say of a model, on such images and under such a threat, can be believed.

    The quick form looks at the first 64 images and then searches those that the run's attacks left standing: by
    `records`, the columns of `results.schema.RECORDS`, or after 10 steps of PGD without them; `attacks` describes those
    that the records name. `budget` bounds its passes of images, forward and backward together. The full form attacks up
    to 1,000 images in several ways; with `source`, also by examples made on that network, whose passes count as well.
    `clean_accuracy` is measured (right, images), from the records or the sample where it is not given; `expected_clean`
    is the share that the model's card claims, and of how many images.

    The verdict is the worst outcome. What lacks passes or images is "not checked"; what does not apply is left out.
    Modes, buffers, gradients and generators are as before afterwards, and equal arguments give equal findings. A
    network that raises or answers NaN fails; `BadInput` is for a `source` that does, and for records of other images.
    """
    if budget is not None and depth == "full":
        raise BadInput("a budget bounds the quick form of the trust battery; leave it out for the full one")
    known = {one.id: one for one in attacks}
    attacked = set() if records is None else set(records["attack"].unique())
    if unknown := attacked - set(known):
        raise BadInput(f"nothing is said of the attack {min(unknown)!r} of the records; give its AttackInfo in attacks")
    found = [] if records is None else [(name, look(records, known)) for name, look in RECORD_CHECKS.items()]
    findings = [_finding(name, seen) for name, seen in found if seen is not None]
    if depth == "quick":
        checks = {**FIRST, STANDING: _standing_check(records, images, threat, seed, budget), **LATER}
    else:
        checks = {**FIRST, **LATER, **ATTACKS}
    count = min(SAMPLE[depth], len(images))
    if budget is not None:
        each = sum(check.cost for check in checks.values())
        count = max(min(FEWEST, count), min(count, int(BASIC_SHARE * budget) // each))
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    tally = Tally()
    network = Counting(model, tally)
    other = None if source is None else Counting(source, tally)
    left_out: dict[str, str] = {}
    unchecked: list[str] = []
    with ExitStack() as stack:
        if other is not None:
            stack.enter_context(undisturbed(other, device))
        moved = stack.enter_context(undisturbed(network, device))
        ids, x, y = sample(images, count, device)
        measured_by = frozenset(known[one].name for one in attacked)
        subject = Subject(network, x, y, ids, threat, seed, other, images_at_once(images.shape), moved, measured_by)
        for done, (name, check) in enumerate(checks.items()):
            progress(done, len(checks), name)
            needed = next((need for need in check.needs if not subject.has(need)), None)
            if needed == "steady" and SHOWN_BY[needed] not in unchecked:
                unchecked.append(name)
                findings.append(_finding(name, RANDOM))
                continue
            if needed is not None and SHOWN_BY.get(needed) not in unchecked:
                left_out[name] = LACKING[needed]
                continue
            fitting = count if budget is None or not check.cost else min(count, (budget - tally.passes) // check.cost)
            if needed is not None or count < check.fewest or fitting < min(count, FEWEST):
                unchecked.append(name)
                findings.append(_finding(name, _too_little(check, count)))
                continue
            reseed(seed, name)
            findings.append(_finding(name, _run(check, subject, fitting)))
        progress(len(checks), len(checks), "")
    measured = clean_accuracy or _clean(records)
    if measured is None and subject.usable:
        measured = int(subject.correct.sum()), count
    if measured is not None and expected_clean is not None:
        findings.append(_finding("clean accuracy", clean.against_card(measured, expected_clean)))
    elif measured is not None and subject.usable:
        findings.append(_finding("clean accuracy", clean.against_chance(measured, subject.logits.shape[1])))
    findings.append(_finding("coverage", _coverage(len(checks), left_out, unchecked, count, tally.passes, budget)))
    return Trust(
        verdict=max((finding.outcome for finding in findings), key=ORDER.index),
        depth=depth,
        findings=findings,
        forward=tally.forwards,
        backward=tally.backwards,
    )


def _standing_check(
    records: pd.DataFrame | None, images: Images, threat: ThreatModel, seed: int, budget: int | None
) -> Check:
    """The search of standing images, which keeps enough of the budget for the checks after it."""
    left = None if records is None else left_by(records, images, threat, seed)

    def run(subject: Subject, count: int) -> Seen:
        start, allowed = subject.network.tally.passes, None
        if budget is not None:
            after = len(subject.x) * sum(check.cost for check in LATER.values())
            allowed = budget - start - min((budget - start) // 2, after)
        there = left or left_by_pgd(subject, allowed, images)
        spent = subject.network.tally.passes - start
        return standing(subject, there, None if allowed is None else allowed - spent)

    return Check(ASKS[STANDING], run, 0, ("logits", "steady", "radius"), 1)


def _too_little(check: Check, count: int) -> Seen:
    """Why a check was not run, and what it takes."""
    if count < check.fewest:
        return Seen("not checked", f"{count} images are too few; measure {check.fewest} or more.")
    return Seen(
        "not checked",
        f"It takes {check.cost * min(count, FEWEST):,} passes, more than are left: measure more images or steps, or "
        "run satbench trust MODEL.",
    )


def _run(check: Check, subject: Subject, count: int) -> Seen:
    """One check; fewer images go through the network together where memory does not suffice."""
    while True:
        try:
            return check.run(subject, count)
        except NetworkFault as fault:
            return Seen("fail", str(fault))
        except torch.OutOfMemoryError:
            if subject.at_once == 1:
                raise
            subject.at_once //= 2
            torch.cuda.empty_cache()


def _clean(records: pd.DataFrame | None) -> tuple[int, int] | None:
    if records is None:
        return None
    right = clean_table(records)
    return int(right.sum()), len(right)


def _coverage(
    checks: int, left_out: dict[str, str], unchecked: list[str], count: int, passes: int, budget: int | None
) -> Seen:
    """What ran, and what does not apply."""
    allowed = "" if budget is None else f" of {budget:,} allowed"
    ran = checks - len(left_out) - len(unchecked)
    said = f"{ran} of {checks} checks ran, on {count} images, in {passes:,} passes{allowed}"
    if left_out:
        reasons = {why: [name for name in left_out if left_out[name] == why] for why in left_out.values()}
        said += "; left out: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    return Seen("pass", f"{said}.")


def _finding(name: str, seen: Seen) -> Finding:
    return Finding(check=name, outcome=seen.outcome, sentence=seen.sentence, next_attack=seen.next_attack)
