"""Whether a robustness number can be believed: checks that a sound network, soundly attacked, passes."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import pandas as pd
import torch
from torch import nn

from satbench.data import Images
from satbench.errors import BadInput
from satbench.progress import Progress, silent
from satbench.results.metrics import clean_table
from satbench.results.schema import Finding, Trust, Verdict
from satbench.threat import ThreatModel
from satbench.trust import clean, gradients, outputs, strength
from satbench.trust.records import RECORD_CHECKS
from satbench.trust.seen import Seen
from satbench.trust.subject import Counting, NetworkFault, Subject, Tally, images_at_once, reseed, sample, undisturbed

SAMPLE = {"quick": 64, "full": 1000}  # images at most
SHOWN_BY = {"logits": "outputs", "steady": "randomness", "gradient": "gradients"}  # keys of `LACKING` and of `CHECKS`
FEWEST = 4  # images without which a check says nothing
ORDER: tuple[Verdict, ...] = ("pass", "suspicious", "fail")
TOO_DEAR = "more passes than are left"
LACKING = {
    "logits": "there are no usable logits",
    "steady": "its output is random",
    "gradient": "there is no gradient to follow",
    "radius": "the radius is 0",
    "white-box": "no white-box attack ran",
    "source": "no other network is given",
}


@dataclass(frozen=True)
class Check:
    """One row of `CHECKS`: called with a subject and how many of its images to look at.

    `cost`: passes an image that the quick form takes at most. `needs`: keys of `LACKING`.
    """

    asks: str
    run: Callable[[Subject, int], Seen]
    cost: int
    needs: tuple[str, ...]


MOVES = ("logits", "gradient", "radius")
BEYOND = (*MOVES, "white-box")
BASIC: dict[str, Check] = {
    "outputs": Check("Are the outputs finite logits of a usable scale?", outputs.outputs, 1, ()),
    "modes": Check("Does everything in the network follow eval(), and stay as it is?", outputs.modes, 0, ("logits",)),
    "gradients": Check("Is there a gradient to the input, finite and not zero?", gradients.gradients, 3, ("logits",)),
    "randomness": Check("Does it answer the same twice?", outputs.randomness, 1, ("logits",)),
    "batches": Check("Does it answer the same alone and among other images?", outputs.batches, 1, ("logits", "steady")),
    "direction": Check(
        "Does the gradient lead to larger loss than random directions do?", gradients.direction, 6, MOVES
    ),
    "quantisation": Check(
        "Does it notice a quarter of a grey level in every pixel?", gradients.quantisation, 1, ("logits", "steady")
    ),
    "input range": Check("Is it made for pixels in [0, 1]?", outputs.input_range, 2, ("logits", "steady")),
}
ATTACKS: dict[str, Check] = {
    "more effort": Check("Do more steps and more restarts break what fewer break?", strength.more_effort, 26, MOVES),
    "large radius": Check("Does accuracy go to 0 as the radius grows?", strength.large_radius, 22, MOVES),
    "other loss": Check("Does cross-entropy break what the margin breaks?", strength.other_loss, 44, MOVES),
    "black box": Check("Does a search without gradients break nothing more?", strength.black_box, 51, BEYOND),
    "transfer": Check("Do examples of another network break nothing more?", strength.transfer, 22, ("source", *BEYOND)),
}
CHECKS = {**BASIC, **ATTACKS}  # in the order in which they run: most worth for a pass first


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
    source: nn.Module | None = None,
    progress: Progress = silent,
) -> Trust:
    """Check whether what attacks say of a model, on such images and under such a threat, can be believed.

    Takes the first 64 images (quick) or up to 1,000 (full). `budget` bounds the passes of images, forward and backward
    together, that the quick form takes; checks that do not fit are left out, and the finding "coverage" says which.
    `records`, the columns of `results.schema.RECORDS`, are a finished run's, whose checks cost no pass.
    `clean_accuracy` is measured (right, images), from the records or the sample where it is not given;
    `expected_clean` is the share that the model's card claims, and of how many images. Examples made on `source` are
    shown to the model; its passes count as well.

    The verdict is the worst outcome. Modes, buffers, gradients and generators are as before afterwards, and equal
    arguments give equal findings. A network that raises or answers NaN fails; `BadInput` is for a `source` that does.
    """
    if budget is not None and depth == "full":
        raise BadInput("a budget bounds the quick form of the trust battery; leave it out for the full one")
    found = [] if records is None else [(name, look(records)) for name, look in RECORD_CHECKS.items()]
    findings = [_finding(name, seen) for name, seen in found if seen is not None]
    count = min(SAMPLE[depth], len(images))
    fewest = min(FEWEST, count)
    if budget is not None:
        count = max(fewest, min(count, budget // 2 // sum(check.cost for check in BASIC.values())))
    device = next((tensor.device for tensor in (*model.parameters(), *model.buffers())), torch.device("cpu"))
    tally = Tally()
    network = Counting(model, tally)
    other = None if source is None else Counting(source, tally)
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        if other is not None:
            stack.enter_context(undisturbed(other, device))
        moved = stack.enter_context(undisturbed(network, device))
        ids, x, y = sample(images, count, device)
        subject = Subject(network, x, y, ids, threat, seed, depth == "full", other, images_at_once(images.shape), moved)
        for done, (name, check) in enumerate(CHECKS.items()):
            progress(done, len(CHECKS), name)
            fitting = count
            if budget is not None and check.cost:
                fitting = min(count, (budget - tally.passes) // check.cost)
            needed = next((need for need in check.needs if not subject.has(need)), None)
            lacking = None if needed is None else LACKING[needed]
            if left_out.get(SHOWN_BY.get(needed or "", "")) == TOO_DEAR:
                lacking = TOO_DEAR
            if lacking is None and fitting < fewest:
                lacking = TOO_DEAR
            if lacking is not None:
                left_out[name] = lacking
                continue
            reseed(seed, name)
            findings.append(_finding(name, _run(check, subject, fitting)))
        progress(len(CHECKS), len(CHECKS), "")
    measured = clean_accuracy or _clean(records)
    if measured is None and subject.usable:
        measured = int(subject.correct.sum()), count
    if expected_clean is not None and measured is not None:
        findings.append(_finding("clean accuracy", clean.against_card(measured, expected_clean)))
    findings.append(_finding("coverage", _coverage(left_out, count, tally.passes, budget)))
    return Trust(
        verdict=max((finding.outcome for finding in findings), key=ORDER.index),
        depth=depth,
        findings=findings,
        forward=tally.forwards,
        backward=tally.backwards,
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


def _coverage(left_out: dict[str, str], count: int, passes: int, budget: int | None) -> Seen:
    """What was not checked; too few passes for the basic checks are no ground for trust."""
    allowed = "" if budget is None else f" of {budget:,} allowed"
    said = (
        f"{len(CHECKS) - len(left_out)} of {len(CHECKS)} checks ran, on {count} images, in {passes:,} passes{allowed}"
    )
    if left_out:
        reasons = {why: [name for name in left_out if left_out[name] == why] for why in left_out.values()}
        said += "; left out: " + "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())
    if any(name in BASIC and why == TOO_DEAR for name, why in left_out.items()):
        return Seen(
            "suspicious", f"{said}: too little to vouch for a number; measure more images, or run the full form."
        )
    return Seen("pass", f"{said}.")


def _finding(name: str, seen: Seen) -> Finding:
    return Finding(check=name, outcome=seen.outcome, sentence=seen.sentence, next_attack=seen.next_attack)


__all__ = ["CHECKS", "Check", "examine"]
