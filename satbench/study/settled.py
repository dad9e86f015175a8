"""Two runs grow, image by image on the same images, until it is settled which network is more robust."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from satbench.core.errors import BadInput
from satbench.core.plugins import check_allowed
from satbench.data import Images, is_own_data
from satbench.evaluation import images_for
from satbench.evaluation.rebuild import spec_of
from satbench.evaluation.request import Request, resolved
from satbench.evaluation.run import run_request
from satbench.regression.figures import figures_of
from satbench.reporting.rounding import down, inward, outward
from satbench.reporting.table_forms import markdown_table
from satbench.results.crossed import holm
from satbench.results.metrics import wilson
from satbench.results.sequential import LEVEL, Interval, Steps, confidence, excludes, looks, p_moved
from satbench.results.store import Run, read_run
from satbench.zoo import is_own_network

NOTE = (
    "Images came in batches until every figure was settled. Differences have a 95% confidence sequence, and p is "
    "adjusted by Holm over the figures; both stay valid however the number of images came about (Waudby-Smith & Ramdas "
    "2024). Rates have Wilson's 95% interval."
)


@dataclass(frozen=True)
class Settled:
    """One accuracy that both runs measured, on the first `n` images; `right_a` and `right_b` of them are right.

    p_value: adjusted for the number of figures. interval: of the difference A - B. verdict: of A against B; "equal" is
    a difference of less than the size that was asked for, "open" is none of these on all images.
    """

    figure: str
    n: int
    right_a: int
    right_b: int
    only_a: int
    only_b: int
    interval: Interval
    p_value: float
    verdict: Literal["higher", "lower", "equal", "open"]


def until_settled(
    a: Path, b: Path, size: float, data_dir: Path | None = None, device: str = "auto"
) -> Iterator[tuple[Settled, ...]]:
    """Let both runs grow in their folders; yields what is known at each look, the last of which settles all figures.

    size: the fraction of images below which a difference does not matter. A figure is settled once A is higher or
    lower, or a difference of this size is excluded either way. Raises `BadInput` for runs on other images or seeds, and
    without an attack at one threat in common.
    """
    grown = [_Grown.of(path, data_dir, device) for path in (a, b)]
    one, other = grown
    if one.images.digest != other.images.digest:
        raise BadInput(f"{a} and {b} were measured on different images; compare runs on the same data")
    start = max(each.n for each in grown)
    for n in (start, *(more for more in looks(len(one.images)) if more > start)):
        ours, theirs = (each.figures(n, device) for each in grown)
        shared = [name for name in ours if name in theirs]
        if len(shared) == 1:
            raise BadInput(f"{a} and {b} share no attack at the same threat; measure both with the same attack")
        steps: dict[str, Steps] = {name: ours[name].astype(np.int8) - theirs[name].astype(np.int8) for name in shared}
        is_whole = n == len(one.images)
        adjusted = holm([p_moved(each, 0.0, is_whole) for each in steps.values()])
        found = tuple(
            Settled(
                figure=name,
                n=n,
                right_a=int(ours[name].sum()),
                right_b=int(theirs[name].sum()),
                only_a=int((each > 0).sum()),
                only_b=int((each < 0).sum()),
                interval=confidence(each),
                p_value=p_value,
                verdict=_verdict(each, p_value, size),
            )
            for (name, each), p_value in zip(steps.items(), adjusted, strict=True)
        )
        yield found
        if all(each.verdict != "open" for each in found):
            return


def to_markdown(found: tuple[Settled, ...], size: float) -> str:
    """A table of the figures, and what its words mean."""
    lines = [
        {
            "figure": one.figure,
            "n": str(one.n),
            "A %": f"{down(one.right_a / one.n)} {outward(*wilson(one.right_a, one.n))}",
            "B %": f"{down(one.right_b / one.n)} {outward(*wilson(one.right_b, one.n))}",
            "A - B points": f"{inward((one.right_a - one.right_b) / one.n)} "
            f"{outward(one.interval.low, one.interval.high)}",
            "only A": str(one.only_a),
            "only B": str(one.only_b),
            "p": f"{one.p_value:.2g}",
            "A is": one.verdict,
        }
        for one in found
    ]
    words = f'"equal" excludes a difference of {100 * size:g} points; "open" is not settled by all images.'
    return f"{markdown_table(pd.DataFrame(lines))}\n{NOTE} {words}\n"


@dataclass(frozen=True)
class _Grown:
    """A run folder that can be measured on more images."""

    run: Run
    asked: Request
    images: Images
    n: int

    @classmethod
    def of(cls, path: Path, data_dir: Path | None, device: str) -> "_Grown":
        run = read_run(path)
        said = run.manifest
        if said.model.in_memory:
            raise BadInput(f"{path} measured a {said.model.ref} that was given from Python; give it more images there")
        if is_own_network(said.model.ref):
            check_allowed(said.model.ref, path)
        if is_own_data(said.data.name):
            check_allowed(said.data.name, path)
        spec = spec_of(said)
        if spec.source is not None:
            raise BadInput(f"{path} is a transfer attack, which cannot grow; give more images to `satbench eval`")
        asked = resolved(spec)
        network = asked.networks(device)[0]
        images = images_for(network, spec.dataset, spec.split, spec.image_size, data_dir, spec.loader)
        if images.head(spec.n).digest != said.data.digest:
            raise BadInput(f"{path}: the images of {said.data.name} are not those of the run; measure it again")
        info = network.info.model_copy(
            update={"label": said.model.label, "recipe": said.model.recipe, "group": said.model.group}
        )
        return cls(run, replace(asked, model=replace(network, info=info), images=images), images, said.data.n)

    def figures(self, n: int, device: str) -> dict[str, np.ndarray]:
        """Whether each of the first `n` images is right, by the name of the figure."""
        asked = replace(self.asked, spec=self.asked.spec.model_copy(update={"n": n}))
        run = run_request(asked, self.run.path, device=device, command=self.run.manifest.command)
        return dict(figures_of(run, self.run.manifest.attacks))


def _verdict(steps: Steps, p_value: float, size: float) -> Literal["higher", "lower", "equal", "open"]:
    if p_value <= LEVEL:
        return "higher" if steps.sum() > 0 else "lower"
    return "equal" if excludes(steps, size) else "open"
