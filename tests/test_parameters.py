import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import pytest
from pydantic import BaseModel, Field

from satbench.core.errors import BadInput
from satbench.core.parameters import (
    Count,
    FromZero,
    Index,
    Number,
    Positive,
    Share,
    ShareBelow1,
    Whole,
    check,
    check_fields,
    wanted,
)
from satbench.core.parsing import parsed
from satbench.specs.evaluation import EvaluationSpec
from satbench.training.settings import DataConfig, ThreatConfig

VALUES = (-1, 0, 0.5, 1, 1.0, 3, math.inf, math.nan, True, None, "1", np.float32(0.5), np.int64(3))
ALLOWED: list[tuple[Any, list[object]]] = [
    (Whole, [-1, 0, 1, 3]),
    (Count, [1, 3]),
    (Index, [0, 1, 3]),
    (Number, [-1, 0, 0.5, 1, 1.0, 3]),
    (Positive, [0.5, 1, 1.0, 3]),
    (FromZero, [0, 0.5, 1, 1.0, 3]),
    (Share, [0, 0.5, 1, 1.0]),
    (ShareBelow1, [0, 0.5]),
    (Count | None, [1, 3, None]),
    (Positive | Literal["1"] | None, [0.5, 1, 1.0, 3, None, "1"]),
    (bool, [True]),
]


@pytest.mark.parametrize(("kind", "allowed"), ALLOWED, ids=lambda kind: wanted(kind) if wanted(kind) else "")
def test_a_type_allows_its_values_as_they_are_and_names_any_other(kind: Any, allowed: list[object]) -> None:
    for value in VALUES:
        if repr(value) in map(repr, allowed):
            assert check("size of mine", value, kind) is value
        else:
            with pytest.raises(BadInput) as refusal:
                check("size of mine", value, kind)
            assert str(refusal.value) == f"size of mine is {value!r}; give {wanted(kind)}"


def test_the_fields_of_a_dataclass_are_checked_where_their_types_have_words() -> None:
    @dataclass(frozen=True)
    class Mine:
        weights: object = None
        name: str = "x"
        steps: Annotated[Count, Field(description="some steps")] = 1
        patience: Count | None = None

        def __post_init__(self) -> None:
            check_fields(self, "mine")

    assert Mine(weights=3, name=4).steps == 1  # type: ignore[arg-type]
    for given, line in (({"steps": 0}, "steps of mine is 0; give some steps"), ({"patience": 1.5}, "a whole number")):
        with pytest.raises(BadInput, match=line):
            Mine(**given)  # type: ignore[arg-type]


class Inner(BaseModel, extra="forbid"):
    rate: Positive
    mode: Literal["fast", "slow"] = "fast"


class Outer(BaseModel, extra="forbid"):
    inner: Inner | None = None
    several: list[Inner] = []
    size: Annotated[Annotated[Number, Field(lt=1)] | Annotated[Whole, Field(ge=2)], Field(description="this or that")]


@pytest.mark.parametrize(
    ("raw", "line"),
    [
        ({"size": 2, "inner": {"rate": "0"}}, "HERE, field 'inner.rate': give a positive number (given '0')"),
        (
            {"size": 2, "inner": {"rate": 1, "rat": 2}},
            "HERE, field 'inner.rat': unknown field; did you mean rate? (given 2)",
        ),
        ({"size": 2, "inner": {}}, "HERE, field 'inner.rate': Field required"),
        ({"size": 2, "inner": {"rate": 1, "mode": "x"}}, "HERE, field 'inner.mode': Input should be 'fast' or 'slow'"),
        ({"size": 2, "several": [{"rate": True}]}, "HERE, field 'several.0.rate': give a positive number (given True)"),
        ({"size": 1}, "HERE, field 'size': give this or that (given 1)"),
        ({}, "HERE, field 'size': Field required"),
        ({"sizes": 1}, "HERE, field 'sizes': unknown field; did you mean size? (given 1)"),
    ],
)
def test_a_refused_field_is_named_with_what_its_type_allows(raw: dict[str, object], line: str) -> None:
    with pytest.raises(BadInput) as refusal:
        parsed(Outer, raw, "HERE")
    assert str(refusal.value).startswith(line)


def test_no_schema_takes_a_truth_value_or_an_infinite_share_for_a_number() -> None:
    for field in ("seed", "n", "image_size", "batch_size", "draws", "threads"):
        with pytest.raises(BadInput, match=f"--{field.replace('_', '-')} True: give a whole number"):
            EvaluationSpec(**{field: True})
    with pytest.raises(BadInput, match="field 'warmup_epochs': give a number from 0"):
        parsed(ThreatConfig, {"eps": 0.1, "warmup_epochs": True}, "here")
    with pytest.raises(BadInput, match="field 'val': give a share between 0 and 1"):
        parsed(DataConfig, {"val": math.inf}, "here")
