"""How many images are expected to stand: from finished runs, from a few seconds' attack, or assumed."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from satbench.attacks import Attack
from satbench.data import Images
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import clean_table, wilson
from satbench.results.store import Run
from satbench.study.pilot import Clock, pilot, pilot_of
from satbench.training import TrainConfig
from satbench.training.stages import method_of, stage_configs
from satbench.zoo import Loaded

# shares of images that are classified correctly and that stand, of a network that nothing is known of: usual, least,
# most; trained on crafted images or on clean ones
CORRECT = (0.85, 0.6, 1.0)
LIKELY = (0.5, 0.2, 0.8)
LIKELY_CLEAN = (0.05, 0.0, 0.3)


@dataclass(frozen=True)
class Shares:
    """Shares of all images: `correct` ones, and those that stand at each growing radius."""

    correct: float
    stood: tuple[float, ...]


@dataclass(frozen=True)
class Expected:
    """How many images stand: the usual, the least and the most; from where; and what one that breaks takes of PGD."""

    usual: Shares
    least: Shares
    most: Shares
    source: str
    when_broken: float | None = None


def expect(
    judged: Loaded,
    searched: nn.Module,
    images: Images,
    training: TrainConfig | None,
    runs: Sequence[Run],
    seed: int,
    clock: Clock,
    attack: Attack,
    growing: Sequence[ThreatModel],
) -> Expected:
    """What an attack will leave standing of a network at growing radii of one norm.

    By `runs` of the network itself; else, for one that is to be trained by `training`, by the other runs or an
    assumption; else by a pilot on `searched`.
    """
    own = [run for run in runs if run.manifest.model.digest == judged.info.digest]
    there = [found for run in own or runs if (found := _shares_of(run, growing)) is not None]
    if there and (own or training is not None):
        return _by_runs(there, "of this network" if own else "of other networks")
    if training is not None:
        usual, least, most = (
            Shares(correct, (stood,) * len(growing)) for correct, stood in zip(CORRECT, likely(training), strict=True)
        )
        return Expected(usual, least, most, f"assumed: {assumed(training)}")
    first = pilot_of(attack)
    seen = pilot(first, searched, images, growing, seed, clock)
    counts = (seen.correct, *seen.stood.values())
    low, high = zip(*(wilson(count, seen.images) for count in counts), strict=True)
    usual = Shares(seen.correct / seen.images, tuple(count / seen.images for count in counts[1:]))
    rates = [f"{x:.0%} [{a:.0%}, {b:.0%}]" for x, a, b in zip(usual.stood, low[1:], high[1:], strict=True)]
    source = f"{', '.join(rates)} of {seen.images} images stand under {first.info.label}"
    return Expected(usual, Shares(low[0], low[1:]), Shares(high[0], high[1:]), source, seen.when_broken)


def likely(config: TrainConfig) -> tuple[float, float, float]:
    """The assumed share of images that stand of a network that is trained so: usual, least, most."""
    method = method_of(stage_configs(config)[-1])
    return LIKELY_CLEAN if method.chosen_by[0] == "clean" else LIKELY


def assumed(config: TrainConfig) -> str:
    """`likely` in words."""
    usual, least, most = likely(config)
    return f"{usual:.0%} ({least:.0%} to {most:.0%}) of the images stand"


def _by_runs(there: Sequence[Shares], whose: str) -> Expected:
    stood = zip(*(one.stood for one in there), strict=True)
    mean = Shares(sum(one.correct for one in there) / len(there), tuple(sum(one) / len(there) for one in stood))
    ordered = sorted(there, key=lambda one: one.stood)
    rates = ", ".join(f"{one:.0%}" for one in mean.stood)
    return Expected(mean, ordered[0], ordered[-1], f"{rates} of the images stand in {len(there)} finished runs {whose}")


def _shares_of(run: Run, growing: Sequence[ThreatModel]) -> Shares | None:
    """What stood under all attacks of a run; None where it was not measured at all these radii."""
    stood = []
    for threat in growing:
        records = run.records[(run.records["norm"] == threat.norm) & (run.records["eps"] == threat.eps)]
        if records.empty:
            return None
        stood.append(1 - float(records.groupby("sample_id")["broken"].any().mean()))
    return Shares(float(clean_table(run.records).mean()), tuple(stood))
