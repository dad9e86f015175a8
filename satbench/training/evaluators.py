"""What a network is measured by at the end of an epoch, on images that it does not learn from.

`clean`, `knn`, an attack of the suite as the command line spells it, or one's own as package.module:callable.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import nn

from satbench.attacks import Attack
from satbench.attacks.base import info_of
from satbench.attacks.knn_guided import KNNGuided
from satbench.attacks.table import build_attack
from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest, pick
from satbench.core.parameters import Count, Index, check_fields
from satbench.core.tables import ATTACKS
from satbench.data import Images
from satbench.evaluation.compute import measure
from satbench.evaluation.executor import Search
from satbench.evaluation.judge import vote
from satbench.models.classifier import Classifier
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import clean_table
from satbench.results.training_log import RESERVED
from satbench.specs.names import FOOLBOX, parse_attack
from satbench.training.config import TrainConfig
from satbench.training.readout import NEIGHBOURS, knn

BATCH = 256  # images at a time
ACCURACIES = ("clean", "robust", "knn", "knn_robust")  # what `EVALUATORS` give under their usual names
ALARM = ("fgsm", "robust")  # the figures that the alarm compares where the config names none
Values = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Look:
    """What evaluators see of a training: the network in eval mode, and the images of this process.

    net: the network itself. judged: the network in the precision of the training. images: this process's share of the
    validation split. train: the training split. threat: with the full radius. search: where attacks search, None for
    `judged`. attacks: of all evaluators, which `records` holds.
    """

    net: Classifier
    judged: nn.Module
    images: Images
    train: Images
    threat: ThreatModel
    seed: int
    device: torch.device
    search: Search | None
    attacks: tuple[Attack, ...]

    @cached_property
    def records(self) -> pd.DataFrame:
        """The records of all attacks, with the columns of `results.schema.RECORDS`."""
        found = measure(
            self.judged, self.images, self.attacks, [self.threat], self.seed, BATCH, self.device, self.search
        )
        return found.records

    @cached_property
    def clean(self) -> NDArray[np.bool_]:
        """Which images are classified correctly as they are, (n,)."""
        if self.attacks:
            return np.asarray(clean_table(self.records), bool)
        found = []
        for _, x, y in self.images.batches(BATCH):
            x, y = x.to(self.device), y.to(self.device)
            found.append((vote(self.judged, x, y, 1).predictions == y).cpu().numpy())
        return np.concatenate(found)


class Evaluator(ABC):
    """A measurement of a network: a frozen dataclass that holds no state.

    names: of its figures, each the mean of one value an image. is_rate: whether these are shares of images.
    attack: what it needs the records of, None for nothing.
    """

    is_rate = True
    attack: Attack | None = None

    @property
    @abstractmethod
    def names(self) -> tuple[str, ...]: ...

    def refuse(self, train: Images) -> None:  # noqa: B027  # most refuse none
        """Raise `BadInput` for training images with which it cannot measure."""

    @property
    def under_attack(self) -> tuple[str, ...]:
        """Those of `names` that are measured under an attack at the radius of the training, the others without one."""
        return () if self.attack is None else self.names

    @abstractmethod
    def values(self, look: Look) -> Values:
        """An array (n,) by each name, with a value for each of `look.images`; it leaves the network as it was."""


@dataclass(frozen=True)
class Clean(Evaluator):
    """Accuracy on the images as they are."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("clean",)

    def values(self, look: Look) -> Values:
        return {"clean": look.clean}


@dataclass(frozen=True)
class Under(Evaluator):
    """Accuracy under an attack at the radius of the training; a misclassified image counts as broken."""

    name: str
    attack: Attack

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name,)

    def values(self, look: Look) -> Values:
        records = look.records
        return {self.name: ~records[records["attack"] == info_of(self.attack).id]["broken"].to_numpy(bool)}


@dataclass(frozen=True)
class Neighbours(Evaluator):
    """Accuracy of a kNN over the representations of the training images, as it is and under the attack `knn-guided`.

    The figures are `name` and `name`_robust. k: neighbours that vote. steps: of the attack; 0 measures the first alone.
    """

    name: str = "knn"
    k: Count = NEIGHBOURS
    steps: Index = 10

    def __post_init__(self) -> None:
        check_fields(self, f"the evaluator {self.name}")

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, f"{self.name}_robust") if self.steps else (self.name,)

    @property
    def under_attack(self) -> tuple[str, ...]:
        return self.names[1:]

    def refuse(self, train: Images) -> None:
        if self.k > len(train):
            raise BadInput(
                f"measure.evaluators: k={self.k} of {self.name} is more than the {len(train)} training images"
            )

    def values(self, look: Look) -> Values:
        attacks = (KNNGuided(self.steps),) if self.steps else ()
        readout = knn(look.net, look.train, look.device, self.k)
        seen = replace(look, judged=readout, search=None, attacks=attacks)
        robust = [Under(f"{self.name}_robust", one).values(seen) for one in attacks]
        return {self.name: seen.clean, **{key: value for one in robust for key, value in one.items()}}


def pgd(name: str = "robust", **params: Any) -> Under:
    """Accuracy under PGD, with ten steps unless others are given."""
    return Under(name, build_attack("pgd", {"steps": 10} | params))


EVALUATORS: dict[str, Callable[..., Evaluator]] = {"clean": Clean, "pgd": pgd, "knn": Neighbours}


def evaluators_of(config: TrainConfig) -> tuple[Evaluator, ...]:
    """The evaluators of a config; raises `BadInput` for one that is unknown, and for a figure that two give."""
    found = tuple(_evaluator(text) for text in config.measure.evaluators)
    names = [name for one in found for name in one.names]
    for name in names:
        if names.count(name) > 1 or name in RESERVED:
            said = "is no free name" if name in RESERVED else "is the name of two figures"
            raise BadInput(f"measure.evaluators: {name!r} {said}; give name=WORD in its parameters")
    for name, is_rate in figures_of(found).items():
        if is_accuracy(name) and not is_rate:
            raise BadInput(f"measure.evaluators: {name!r} is the name of an accuracy; give the figure another name")
    return found


def figures_of(evaluators: Sequence[Evaluator]) -> dict[str, bool]:
    """The names of all figures, in order, and whether each is a share of images."""
    return {name: one.is_rate for one in evaluators for name in one.names}


def is_accuracy(name: str) -> bool:
    """Whether every figure of this name is an accuracy: one of `ACCURACIES`, or an attack as it is spelled.

    Of a name chosen by name=WORD, or by an evaluator of one's own, the name alone does not say it.
    """
    attack = name.partition(":")[0]
    return name in ACCURACIES or attack in ATTACKS or attack == FOOLBOX


def best_by(config: TrainConfig, usual: Sequence[str], figures: Mapping[str, bool]) -> tuple[str, ...]:
    """The figures that make an epoch the best, the first one first; `usual` are those of the method.

    Raises `BadInput` for one that no evaluator gives.
    """
    chosen = tuple(config.measure.best or usual)
    for name in chosen:
        if name not in figures:
            raise BadInput(
                f"the best epoch is chosen by {name!r}, which no evaluator gives; set measure.best to some of "
                f"{', '.join(figures)}, or add the evaluator to measure.evaluators"
            )
    return chosen


def alarmed_by(config: TrainConfig, figures: Mapping[str, bool]) -> tuple[str, str] | None:
    """The accuracies under a weak and a strong attack that the alarm compares; None where they are not measured.

    Raises `BadInput` where they were asked for, or something depends on them.
    """
    weak, strong = config.measure.alarm or ALARM
    missing = [name for name in (weak, strong) if not figures.get(name)]
    if missing and (config.measure.alarm or config.stop.collapse != "note"):
        raise BadInput(
            f"the alarm compares {weak!r} and {strong!r}, and no evaluator gives an accuracy {missing[0]!r}; set "
            f"measure.alarm to two of {', '.join(figures)}, or add the evaluator to measure.evaluators"
        )
    return None if missing else (weak, strong)


def _evaluator(text: str) -> Evaluator:
    name, params = parse_attack(text)
    if name in EVALUATORS:
        found: Evaluator = pick(EVALUATORS, name, "evaluator", **params)
        return found
    if name in ATTACKS or name.startswith("foolbox:"):
        return Under(str(params.pop("name", text)), build_attack(name, params))
    if ":" not in name:
        raise BadInput(f"unknown evaluator {name!r}; {nearest(name, [*EVALUATORS, *ATTACKS])}")
    own: Evaluator = plugins.make({}, name, "evaluator", Evaluator, **params)
    return own
