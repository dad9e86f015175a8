"""Names become objects and spellings become radii, or one line says what was meant."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from satbench.core.eps import NORMS, Threat, format_eps, parse_eps
from satbench.core.errors import BadInput, reason
from satbench.core.lookup import find, nearest, pick
from satbench.core.parsing import parsed
from satbench.numerics.threat import ThreatModel
from satbench.training.settings import ThreatConfig

CALM = settings(deadline=None, derandomize=True)


def make(size: int, colour: str = "red") -> tuple[int, str]:
    return size, colour


TABLE = {"alpha": make, "alphabet": make, "omega": make}


def test_nearest_names_the_close_ones_and_only_those() -> None:
    hint = nearest("alphabt", TABLE)
    assert hint.startswith("did you mean alphabet or alpha")
    assert "omega" not in hint


def test_nearest_ignores_case() -> None:
    assert nearest("OMEGA", TABLE) == "did you mean omega?"
    assert nearest("linf", NORMS) == "did you mean Linf?"
    assert nearest("DDN", ["DDNAttack", "EADAttack"]) == "did you mean DDNAttack?"


def test_nearest_lists_everything_when_nothing_is_close() -> None:
    assert nearest("zzz", {"b": 1, "a": 2}) == "known: a, b"


def test_find_gives_the_entry_itself() -> None:
    assert find(TABLE, "omega", "shape") is make


def test_unknown_name_is_refused_with_kind_and_hint() -> None:
    with pytest.raises(BadInput, match=r"unknown shape 'omeg'; did you mean omega\?"):
        find(TABLE, "omeg", "shape")


def test_bad_input_is_a_value_error() -> None:
    assert issubclass(BadInput, ValueError)


def test_an_exception_is_said_in_one_line() -> None:
    assert reason(RuntimeError("\nsizes differ.\nmore")) == "RuntimeError: sizes differ"
    assert reason(ZeroDivisionError()) == "ZeroDivisionError: no message"
    assert reason(BadInput("no such file; give another.")) == "no such file; give another"


def test_pick_passes_positions_and_keys_on() -> None:
    assert pick(TABLE, "alpha", "shape", 3, colour="blue") == (3, "blue")
    assert pick(TABLE, "alpha", "shape", size=4) == (4, "red")


def test_unknown_key_is_refused_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"unknown parameter 'color' of shape 'alpha'; did you mean colour\?"):
        pick(TABLE, "alpha", "shape", 3, color="blue")


def test_a_key_already_given_by_position_is_refused_and_not_suggested() -> None:
    with pytest.raises(BadInput, match=r"unknown parameter 'size' of shape 'alpha'; known: colour$"):
        pick(TABLE, "alpha", "shape", 3, size=4)


def test_a_factory_without_parameters_says_so() -> None:
    with pytest.raises(BadInput, match="it takes none"):
        pick({"plain": lambda: 1}, "plain", "thing", width=2)


@pytest.mark.parametrize(
    ("text", "value"),
    [("8/255", 8 / 255), (".03", 0.03), ("0.03", 0.03), ("0", 0.0), ("1", 1.0), ("1e-3", 0.001), ("0/255", 0.0)],
)
@pytest.mark.parametrize("pad", ["{}", " {} ", "\t{}\n"])
def test_parse_eps_reads_fractions_and_decimals(text: str, value: float, pad: str) -> None:
    assert parse_eps(pad.format(text)) == pytest.approx(value, abs=1e-15)


def test_parse_eps_allows_spaces_round_the_slash() -> None:
    assert parse_eps("8 / 255") == 8 / 255


@pytest.mark.parametrize(
    "text", ["", "x", "/", "8/", "/255", "8/255/1", "8:255", "1/0", "0/0", "1/0.0", "--1", "8\\255"]
)
@pytest.mark.parametrize("norm", NORMS)
def test_parse_eps_refuses_what_is_no_number(text: str, norm: str) -> None:
    with pytest.raises(BadInput, match=r"8/255 or 0\.03"):
        parse_eps(text, norm)


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "nan/255", "inf/255", "inf/inf", "1e999"])
@pytest.mark.parametrize("norm", NORMS)
def test_parse_eps_refuses_what_is_not_finite(text: str, norm: str) -> None:
    with pytest.raises(BadInput, match="not a finite number"):
        parse_eps(text, norm)


@pytest.mark.parametrize("text", ["-8/255", " -0.03", "8/-255"])
@pytest.mark.parametrize("norm", NORMS)
def test_parse_eps_refuses_a_negative_radius(text: str, norm: str) -> None:
    with pytest.raises(BadInput, match="negative"):
        parse_eps(text, norm)


def test_an_linf_radius_in_units_of_255_is_refused_with_the_right_spelling() -> None:
    with pytest.raises(BadInput, match="did you mean 8/255"):
        parse_eps("8")
    assert parse_eps("8", "L2") == 8.0
    assert parse_eps("12", "L1") == 12.0


@CALM
@given(st.integers(0, 255))
def test_multiples_of_a_255th_round_trip(k: int) -> None:
    assert parse_eps(format_eps(k / 255)) == pytest.approx(k / 255, abs=1e-12)


@CALM
@given(st.decimals(0, 1, places=6))
def test_decimals_round_trip(value: object) -> None:
    eps = float(str(value))
    assert parse_eps(format_eps(eps)) == pytest.approx(eps, abs=1e-12)


@CALM
@given(st.floats(1e-12, 100, allow_nan=False))
def test_a_radius_is_never_written_as_a_clearly_different_one(eps: float) -> None:
    assert parse_eps(format_eps(eps), "L2") == pytest.approx(eps, rel=1e-6)


@pytest.mark.parametrize("eps", [1e-9, 3e-10])
def test_a_tiny_radius_is_not_written_as_zero(eps: float) -> None:
    assert parse_eps(format_eps(eps)) > 0


@pytest.mark.parametrize(
    ("eps", "text"), [(8 / 255, "8/255"), (2 / 255, "2/255"), (64 / 255, "64/255"), (0.5, "0.5"), (0.03, "0.03")]
)
def test_format_eps_writes_what_people_write(eps: float, text: str) -> None:
    assert format_eps(eps) == text


def test_norms_are_the_three_of_the_papers() -> None:
    assert set(NORMS) == {"Linf", "L2", "L1"}
    assert all(math.isfinite(parse_eps("0.5", norm)) for norm in NORMS)


def test_of_very_many_names_only_the_first_are_listed() -> None:
    names = [f"n{number:04d}" for number in range(1000)]
    assert nearest("?", names) == f"known: {', '.join(names[:60])} and 940 more"
    assert nearest("?", names[:60]) == f"known: {', '.join(names[:60])}"


@pytest.mark.parametrize("eps", [8 / 255, "8/255", "0.03137254901960784"])
def test_a_threat_is_one_value_wherever_it_is_read(eps: float | str) -> None:
    threat = Threat(norm="Linf", eps=eps)
    assert threat.model_dump() == {"norm": "Linf", "eps": 8 / 255}
    assert ThreatConfig(eps=eps).model_dump() == {"norm": "Linf", "eps": 8 / 255, "warmup_epochs": 0}
    geometry = ThreatModel("Linf", eps)
    assert pickle.loads(pickle.dumps(geometry)) == geometry
    assert geometry.model_dump() == threat.model_dump()
    assert str(geometry) == str(threat) == "Linf 8/255"
    assert repr(geometry) == "ThreatModel(norm='Linf', eps=0.03137254901960784)"  # part of the names of stored results


@pytest.mark.parametrize(
    ("norm", "eps"),
    [
        ("linf", 0.1),
        ("Linf", 8),
        ("Linf", "8"),
        ("L2", -1),
        ("L2", math.nan),
        ("L2", "inf"),
        ("L1", True),
        ("L1", None),
    ],
)
@pytest.mark.parametrize("schema", [Threat, ThreatConfig])
def test_no_schema_accepts_a_threat_that_is_none(schema: type[Threat], norm: str, eps: object) -> None:
    with pytest.raises(ValidationError):
        schema.model_validate({"norm": norm, "eps": eps})


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (
            {"norm": "Linf", "eps": 8},
            "FILE, field 'eps': eps '8.0' is larger than the whole pixel range [0, 1]; did you ",
        ),
        ({"norm": "linf", "eps": 1}, "FILE, field 'norm': Input should be 'Linf', 'L2' or 'L1' (given 'linf'); AGAIN"),
        ({"norm": "L2"}, "FILE, field 'eps': Field required; AGAIN"),
        ({"norm": "L2", "eps": 1, "step": 2}, "FILE, field 'step': unknown field; did you mean eps? (given 2); AGAIN"),
        ({"norm": "L2", "eps": [1]}, "FILE, field 'eps': Input should be a valid number; AGAIN"),
        (b'{"norm": "L2", "eps": 1', "FILE: Invalid JSON: EOF while parsing an object at line 1 column 23; AGAIN"),
        ("L2 1", "FILE: give a mapping of fields (given 'L2 1'); AGAIN"),
    ],
)
def test_data_that_fits_no_schema_is_named_by_source_and_field(raw: object, said: str) -> None:
    with pytest.raises(BadInput) as refused:
        parsed(Threat, raw, "FILE", "AGAIN")
    assert str(refused.value).startswith(said)


def test_json_and_plain_data_are_parsed_to_the_same() -> None:
    threat = Threat(norm="L2", eps=0.5)
    assert parsed(Threat, b'{"norm": "L2", "eps": "0.5"}', "here") == threat
    assert parsed(list[Threat], [{"norm": "L2", "eps": "1/2"}], "here") == [threat]
