"""What a suite can see, and what it will cost, before it is measured."""

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from satbench.evaluation.request import resolved
from satbench.numerics.device import resolve_device
from satbench.regression import baseline_file, read_baseline
from satbench.reporting.rounding import up
from satbench.reporting.table_forms import markdown_table
from satbench.results.power import CHURN, expected_images, gate_images, visible_drop
from satbench.study.cost import duration, predict_jobs, untrained
from satbench.study.gate import Suite, at_once, figures_and_images, numerics_of, tolerances, unit_of_attacks

NOTE = (
    "Points are percent of the images; the drop that must be seen is beyond the tolerance. Images come with the time "
    "that this device is expected to take. A drop counts as seen where the gate misses it in at most 10%, with 5% "
    f"false alarms over all figures. Assumed: {CHURN:.1%} of the images flip by rounding, as many up as down. The gate "
    "takes at most all images. Where bits are compared, one flipped image is enough; attacks that draw for units of "
    "images are then measured on all images at once. The time includes the trust battery, at most a tenth of the "
    "passes, once at the end; trust that looks worse there is looked at on more images, at the latest on all."
)


@dataclass(frozen=True)
class Planned:
    """One figure of a suite. Sizes are fractions, costs seconds of this device.

    images: of the suite. visible: the smallest drop beyond the tolerance that they show with 90%. needed: the images
    that the suite's `drop` takes; None for a drop of 0. unchanged, twice: the images that are measured on average if
    nothing changed, and at a drop of twice that size. seconds: of all images; each takes its share.
    """

    measured: str
    figure: str
    images: int
    tolerance: float
    drop: float
    visible: float | None
    needed: int | None
    unchanged: float
    twice: float
    seconds: float


def plan(suite: Suite, data_dir: Path | None, device: str) -> list[Planned]:
    """Each figure of a suite; nothing is trained or written. Raises `BadInput` as measuring would.

    Without a baseline, the one that this device would make is assumed.
    """
    file, place = baseline_file(suite.file), resolve_device(device)
    baseline = read_baseline(file) if file.is_file() else None
    costs = predict_jobs(suite.jobs, [one.evaluation.name for one in suite.members], data_dir, device)
    configs = {one.name: one.config for one in suite.jobs.trainings}
    opened = []
    for member in suite.members:
        config = configs.get(member.evaluation.training or "")
        asked = resolved(member.evaluation.spec)
        networks = asked.networks(device) if config is None else [untrained(config, data_dir, place)]
        names, images = figures_and_images(member, networks[0], data_dir)
        unit, numerics = unit_of_attacks(asked), numerics_of(asked, networks, images, place)
        held = None if baseline is None else baseline.measured.get(member.measured)
        is_first = held is None and not member.measurement.published
        whole = unit > 0 and numerics != "" if is_first else at_once(held, numerics, unit)
        opened.append((member, unit, whole, names, images))
    count, drop, found = sum(len(names) for *_, names, _ in opened), suite.study.gate.drop / 100, []
    for member, unit, whole, names, images in opened:
        n, accepted = len(images), tolerances(member, names)
        for name in names:
            tolerance = accepted.get(name, 0.0)
            rest = (drop, CHURN, count)
            found.append(
                Planned(
                    measured=member.measured,
                    figure=name,
                    images=n,
                    tolerance=tolerance,
                    drop=drop,
                    visible=visible_drop(n, CHURN, count, tolerance),
                    needed=gate_images(*rest, tolerance) if drop else None,
                    unchanged=n if whole else expected_images(n, *rest, 0.0, tolerance, unit),
                    twice=n if whole else expected_images(n, *rest, tolerance + 2 * drop, tolerance, unit),
                    seconds=costs[member.evaluation.name].seconds,
                )
            )
    return found


def table(found: list[Planned]) -> str:
    """A line a figure, and what is assumed."""
    lines = [
        {
            "network": one.measured,
            "figure": one.figure,
            "images": f"{one.images}, {duration(one.seconds)}",
            "tolerance": f"{100 * one.tolerance:g}",
            "sees a drop of": "none" if one.visible is None else f"{up(one.tolerance + one.visible)}",
            f"needs for {100 * one.drop:g} points": "every image" if one.needed is None else _cost(one, one.needed),
            "if nothing changed": _cost(one, one.unchanged),
            "at twice the drop": _cost(one, one.twice),
        }
        for one in found
    ]
    return f"{markdown_table(pd.DataFrame(lines))}\n{NOTE}\n"


def _cost(one: Planned, images: float) -> str:
    return f"{images:.0f}, {duration(one.seconds * images / one.images)}"
