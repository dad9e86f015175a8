"""The claims of `leaderboards/claims.yaml` with their states, computed from the results of studies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from satbench.core.errors import BadInput
from satbench.reporting.claims_file import Claim, ClaimsFile, CriterionName, Plan, read_claims
from satbench.reporting.criteria import (
    AGREES,
    CRITERIA,
    DIFFERS,
    UNDECIDED,
    UNMEASURED,
    Decision,
    State,
    Studied,
)
from satbench.reporting.results_file import RESULTS_FILE, StudyResults, read_results
from satbench.reporting.table_forms import MISSING

OFF_SCALE = "not tested at its scale"
CLAIMS_NOTE = (
    "States are computed from the committed results of the studies, by criteria that were fixed before. Agrees and "
    "differs are about the direction at the scale of the study; a claim made at another scale is not tested at its "
    "scale. Differences are in points of accuracy with 95% intervals over images and seeds; p-values are after Holm."
)


@dataclass(frozen=True)
class CriterionResult:
    """A criterion of a study, and what it says."""

    study: str
    criterion: CriterionName
    asks: str
    decision: Decision


@dataclass(frozen=True)
class ClaimState:
    """A claim with its tests; `commands` make the results, or would test a claim that cannot be tested here.

    scales: of the studies that test it.
    """

    claim: Claim
    tests: tuple[CriterionResult, ...]
    commands: tuple[str, ...]
    scales: tuple[str, ...]

    @property
    def state(self) -> State:
        """Differs where a test does; agrees where all do; not yet measured where one is missing."""
        states = {one.decision.state for one in self.tests}
        if not states:
            return "not testable here"
        return next((state for state in (DIFFERS, UNMEASURED, UNDECIDED) if state in states), AGREES)

    @property
    def tested_at(self) -> str:
        """The scales of its studies in words; "" for a claim without tests."""
        scales = "; ".join(self.scales)
        return f"{scales} (not yet)" if self.state == UNMEASURED else scales

    @property
    def is_off_scale(self) -> bool:
        """Whether it is tested, but not at the scale of the claim."""
        return bool(self.tests) and self.claim.scale not in self.scales

    @property
    def words(self) -> str:
        """The state as readers see it."""
        return f"{self.state}; {OFF_SCALE}" if self.is_off_scale else self.state

    @property
    def sentences(self) -> tuple[str, ...]:
        """The figures of each test, or why there are none."""
        if not self.tests:
            return (self.claim.reason or "",)
        said = [
            f"{test.asks}: {test.decision.state}" + "".join(f"; {one.sentence()}" for one in test.decision.evidence)
            for test in self.tests
        ]
        return (*said, *([self.claim.note] if self.claim.note else []))


def claims_with_states(known: ClaimsFile, reports: Path) -> list[ClaimState]:
    """Every claim with its state, decided by the results of `reports/STUDY`, where they are there.

    Raises `BadInput` where these are damaged or of another study, or a criterion does not fit the study.
    """
    wanted = dict.fromkeys(study for claim in known.claims for study in claim.tests)
    files = {study: reports / study / RESULTS_FILE for study in wanted}
    studied = {study: Studied(read_results(file)) for study, file in files.items() if file.is_file()}
    for study, one in studied.items():
        title = known.studies[study].title
        if one.results.title != title:
            raise BadInput(f"{files[study]} holds {one.results.title!r} and not {title!r}; make its report again")
    return [_tested(known, claim, studied) for claim in known.claims]


def _tested(known: ClaimsFile, claim: Claim, studied: Mapping[str, Studied]) -> ClaimState:
    tests = tuple(test for study, names in claim.tests.items() for test in decided(study, names, studied.get(study)))
    studies = [known.studies[study] for study in claim.tests]
    commands = [claim.command] if claim.command else [study.command for study in studies]
    return ClaimState(claim, tests, tuple(commands), tuple(study.scale for study in studies))


def decided(study: str, names: Sequence[str], results: Studied | None) -> list[CriterionResult]:
    """What the criteria of these names say of a study; not yet measured without results."""
    by_name = {name: criterion for name, criterion in CRITERIA.items() if name in names}
    return [
        CriterionResult(study, name, one.claim, Decision(UNMEASURED) if results is None else one.decide(results))
        for name, one in by_name.items()
    ]


def planned(results: StudyResults) -> tuple[Plan | None, list[tuple[Claim, CriterionResult]]]:
    """What the study of this title in `leaderboards/claims.yaml` planned to test, and what its criteria say of claims.

    None and [] where there is no such study.
    """
    known = read_claims()
    found = [(name, study) for name, study in known.studies.items() if study.title == results.title]
    if not found:
        return None, []
    name, study = found[0]
    studied = Studied(results)
    has_recipe = bool(studied.networks)  # a part may hold changed recipes alone
    return study.plan, [
        (claim, result)
        for claim in known.claims
        for result in decided(name, claim.tests.get(name, ()), studied if has_recipe else None)
    ]


def criteria_table(found: Sequence[tuple[Claim, CriterionResult]]) -> pd.DataFrame:
    """A line a criterion, all cells texts; `number` is that of its claim."""
    return pd.DataFrame(
        {
            "number": MISSING if claim.number is None else str(claim.number),
            "claim": one.asks,
            "agrees": CRITERIA[one.criterion].agrees,
            "differs": CRITERIA[one.criterion].differs,
            "state": one.decision.state,
            "figures": _figures(claim, one),
        }
        for claim, one in found
    )


def _figures(claim: Claim, result: CriterionResult) -> str:
    said = [figure.sentence() for figure in result.decision.evidence] + ([claim.note] if claim.note else [])
    return " ".join(f"{sentence}." for sentence in said) or MISSING


def claims_table(claims: Sequence[ClaimState]) -> pd.DataFrame:
    """A line a claim, all cells texts."""
    return pd.DataFrame(
        {
            "number": MISSING if one.claim.number is None else str(one.claim.number),
            "claim": one.claim.claim,
            "source": one.claim.source,
            "made at": one.claim.scale,
            "tested at": one.tested_at or MISSING,
            "state": one.words,
            "figures": " ".join(f"{sentence}." for sentence in one.sentences),
            "command": "; ".join(one.commands),
        }
        for one in claims
    )


def as_json(one: ClaimState) -> dict[str, Any]:
    """A claim with its state as plain values; differences and their bounds are fractions."""
    claim = one.claim
    return {
        "number": claim.number,
        "claim": claim.claim,
        "source": claim.source,
        "scale": claim.scale,
        "tested_at": list(one.scales),
        "state": one.state,
        "tested_at_its_scale": bool(one.tests) and not one.is_off_scale,
        "reason": claim.reason,
        "note": claim.note,
        "commands": list(one.commands),
        "tests": [
            {
                "study": test.study,
                "criterion": test.criterion,
                "asks": test.asks,
                "state": test.decision.state,
                "figures": [vars(figure) for figure in test.decision.evidence],
            }
            for test in one.tests
        ],
    }
