"""`leaderboards/claims.yaml`: what the paper and its release say of networks, and where each statement is tested."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.parameters import Count
from satbench.core.parsing import parsed
from satbench.core.strict_yaml import read_mapping, shipped
from satbench.specs.names import check_attack

CLEAN = "clean"
NUMBERED = range(1, 15)  # the claims of the paper
CriterionName = Literal[
    "silu-more-robust",
    "silu-clean",
    "softplus-trade",
    "backward",
    "pgd-training",
    "smoothrelu",
    "elu-and-celu",
    "saturation",
    "rapid",
]
CRITERION_NAMES: tuple[CriterionName, ...] = get_args(CriterionName)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Images(_Strict):
    dataset: str
    split: str
    n: int = Field(gt=0)


class Source(_Strict):
    """Where figures were published, the image loader they were made with, and the attack's step where it is known."""

    where: str
    loader: str
    step_size: str | None = None


Text = Annotated[str, Field(min_length=1)]
Percent = Annotated[float, Field(ge=0, le=100)]
Figure = Annotated[str, Field(pattern=r"^(clean|pgd-[1-9][0-9]*)$")]


class Plan(_Strict):
    """What a study planned to test; everything else that it measures is described.

    primary: the attack at `threat` that decides. secondary: further attacks at it, or `clean`. Trainings with changed
    settings are tested under the primary attack alone, and count as secondary.
    """

    threat: Threat
    primary: Text
    secondary: list[Text] = []

    @model_validator(mode="after")
    def _known(self) -> Self:
        for name in (self.primary, *(name for name in self.secondary if name != CLEAN)):
            check_attack(name)
        return self


class Study(_Strict):
    """A study that tests claims, known by its title: the command that makes it, its scale and its plan."""

    title: Text
    command: Text
    scale: Text
    plan: Plan | None = None


class Claim(_Strict):
    """A statement, with its source and the scale at which it was made.

    number: that of the paper's claim; None for a claim of this project.
    tests: criteria by the study that decides them. A claim without tests has a `reason` why it cannot be tested here,
    and the `command` that would test it. note: what the tests leave out.
    """

    number: Count | None = None
    claim: Text
    source: Text
    scale: Text
    tests: dict[str, Annotated[list[CriterionName], Field(min_length=1)]] = {}
    command: Text | None = None
    reason: Text | None = None
    note: Text | None = None

    @model_validator(mode="after")
    def _tested_or_not(self) -> Self:
        untestable = self.command is not None and self.reason is not None
        if bool(self.tests) == untestable or (self.tests and (self.command or self.reason)):
            raise ValueError("give either tests, or command and reason")
        return self


class ClaimsFile(_Strict):
    """figures: for each network and source, published accuracies in percent, clean or against PGD-N on `images`.

    claims: statements, those of the paper first. studies: where they are tested.
    """

    images: Images
    threat: Threat
    sources: dict[str, Source]
    figures: dict[str, dict[str, dict[Figure, Percent]]]
    studies: dict[str, Study] = {}
    claims: list[Claim] = []


def read_claims(path: Path | None = None) -> ClaimsFile:
    """The file's content; raises `BadInput` naming file and field of the first that is wrong."""
    path = path or shipped("claims.yaml", "leaderboards")
    known = parsed(ClaimsFile, read_mapping(path), str(path))
    for model, sources in known.figures.items():
        for source in sources:
            if source not in known.sources:
                raise BadInput(f"{path}, field 'figures.{model}.{source}': no such source in the list of sources")
    for place, claim in enumerate(known.claims):
        for study in claim.tests:
            if study not in known.studies:
                raise BadInput(f"{path}, field 'claims.{place}.tests.{study}': no such study in the list of studies")
    if len({study.title for study in known.studies.values()}) < len(known.studies):
        raise BadInput(f"{path}, field 'studies': two studies have one title; rename one")
    numbers = Counter(claim.number for claim in known.claims if claim.number is not None)
    if twice := [number for number, count in numbers.items() if count > 1]:
        raise BadInput(f"{path}, field 'claims': number {twice[0]} is there twice; remove one")
    return known


@dataclass(frozen=True)
class PublishedFigure:
    """One published accuracy in percent of network `model`; `steps` of PGD, or 0 for clean images."""

    model: str
    source: str
    steps: int
    percent: float

    @property
    def figure(self) -> str:
        return f"PGD-{self.steps}" if self.steps else CLEAN

    def __str__(self) -> str:
        """Percent with one decimal, or two where two were published."""
        return f"{self.percent:.1f}" if round(self.percent, 1) == self.percent else f"{self.percent:.2f}"


def published(claims: ClaimsFile, model: str) -> list[PublishedFigure]:
    """What was published of one network: clean figures first, then by steps."""
    found = [
        PublishedFigure(model, source, 0 if figure == CLEAN else int(figure.removeprefix("pgd-")), percent)
        for source, figures in claims.figures.get(model, {}).items()
        for figure, percent in figures.items()
    ]
    return sorted(found, key=lambda claim: claim.steps)


def headline(claims: Sequence[PublishedFigure]) -> tuple[PublishedFigure | None, PublishedFigure | None]:
    """The clean figure and the robust one of most steps; of equal ones, the first source's."""
    clean = next((claim for claim in claims if not claim.steps), None)
    robust = [claim for claim in claims if claim.steps]
    return clean, max(robust, key=lambda claim: claim.steps, default=None)
