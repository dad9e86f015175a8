"""The claims of the paper: read strictly, and with states that follow from the results of a study."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from satbench.cli.app import app
from satbench.core.errors import BadInput
from satbench.reporting.claims import OFF_SCALE, claims_table, claims_with_states
from satbench.reporting.claims_file import CRITERION_NAMES, NUMBERED, read_claims
from satbench.reporting.criteria import CRITERIA, Decision, Studied
from satbench.reporting.leaderboard import build
from satbench.reporting.results_file import RESULTS_FILE, StudyResults, encoded
from satbench.results.crossed import crossed_difference, holm
from satbench.results.store import Run

from .made import AA, EPS, PGD, MakeRun, first, runs_in

N, SOME = 400, 300
WEAK = PGD.replace("steps=50", "steps=10")
RAPID = "Rapid()"
ATTACKER, OPTIMIZER = "surrogate.attacker=True", "surrogate.optimizer=True"
SURE = {"silu": 60, "softplus": 60, "smoothrelu": 60, "gelu": 0, "elu": 0, "parametric_softplus": 0}  # of SOME images
Counts = Mapping[str, int]
TITLE = "Smooth activations against ReLU on photographs"
THREE = {name: count for name, count in SURE.items() if count}


@pytest.fixture(scope="module")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> MakeRun:
    """Equal networks are stored once for all tests."""
    make, stored = runs_in(tmp_path_factory.mktemp("runs")), dict[str, Run]()

    def made(*args: object, **changes: object) -> Run:
        key = repr((args, changes))
        if key not in stored:
            stored[key] = make(*args, **changes)
        return stored[key]

    return made


def network(make_run: MakeRun, activation: str, seed: int, robust: int, clean: int = 200, change: str = "") -> Run:
    """A network of which `robust` of the first 300 images stand under PGD-50, and one more under PGD-10."""
    recipe = "digits-cnn" + (f" [{change}]" if change else "")
    outcomes = {(PGD, "Linf", EPS): first(robust, SOME), (WEAK, "Linf", EPS): first(robust + 1, N)}
    about = {"recipe": recipe, "family": change, "config": f"{change} {activation}"}
    digest = f"sha256:{recipe} {activation} {seed}"
    return make_run(activation, first(clean, N), outcomes, seed=seed, digest=digest, **about)


def study(make_run: MakeRun, more: Counts = SURE, clean: Counts | None = None, seeds: int = 2) -> list[Run]:
    """ReLU with 100 of 300 images robust, and each activation with so many more; seeds differ by one image."""
    return [
        network(make_run, name, seed, 100 + more.get(name, 0) + seed, 200 + (clean or {}).get(name, 0))
        for name in ("relu", *more)
        for seed in range(seeds)
    ]


def changed(make_run: MakeRun, more: Counts, activation: str = "relu") -> list[Run]:
    return [
        network(make_run, activation, seed, 100 + count + seed, change=change)
        for change, count in more.items()
        for seed in range(2)
    ]


def decide(name: str, runs: list[Run]) -> Decision:
    criteria: Mapping[str, object] = CRITERIA
    assert name in criteria
    return CRITERIA[name].decide(Studied(StudyResults("T", tuple(runs), {})))  # type: ignore[index]


# the file


def test_the_file_has_the_14_claims_and_every_criterion_decides_one() -> None:
    known = read_claims()
    assert [claim.number for claim in known.claims if claim.number] == list(NUMBERED)
    used = [name for claim in known.claims for names in claim.tests.values() for name in names]
    assert sorted(used) == sorted(CRITERION_NAMES) == sorted(CRITERIA)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("[softplus-trade]", "[softplus-trades]", r"field 'claims\.5\.tests"),
        ("{elu-and-celu: [elu", "{elu-or-celu: [elu", r"field 'claims\.9\.tests\.elu-or-celu': no such study"),
        ("number: 2\n", "number: 1\n", "number 1 is there twice"),
        ("    reason: no weights", "    note: no weights", "either tests, or command and reason"),
        ("    tests: {smooth-vs-relu: [backward]}\n", "    state: agrees\n", "unknown field"),
    ],
)
def test_a_wrong_claim_is_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "leaderboards" / "claims.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "claims.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        read_claims(tmp_path / "claims.yaml")


# the criteria of docs/smooth-vs-relu.md


@pytest.mark.parametrize(("more", "state"), [(60, "agrees"), (-60, "differs"), (2, "not decided")])
def test_silu_is_more_robust(more: int, state: str, make_run: MakeRun) -> None:
    runs = study(make_run, {"silu": more, "gelu": 0})
    decision = decide("silu-more-robust", runs)
    assert decision.state == state
    assert decision.evidence[0].difference == pytest.approx(more / SOME)
    assert (decision.evidence[0].n, decision.evidence[0].seeds) == (SOME, 2)


@pytest.mark.parametrize(("more", "state"), [(0, "differs"), (20, "not decided")])
def test_a_gain_surely_below_a_point_differs(more: int, state: str, make_run: MakeRun) -> None:
    """But where it is surely above 0 too, which agrees, it is not decided."""
    runs = [
        make_run(name, first(4000, 4000), {(PGD, "Linf", EPS): first(count, 4000)}, seed=seed)
        for name, count in (("relu", 2000), ("silu", 2000 + more))
        for seed in range(2)
    ]
    decision = decide("silu-more-robust", runs)
    (gain,) = decision.evidence
    assert gain.high < 0.01
    assert (gain.low > 0) is (more > 0)
    assert decision.state == state


@pytest.mark.parametrize(("more", "state"), [(0, "agrees"), (60, "agrees"), (-60, "differs"), (-4, "not decided")])
def test_silu_costs_no_clean_accuracy(more: int, state: str, make_run: MakeRun) -> None:
    assert decide("silu-clean", study(make_run, {"silu": 0}, {"silu": more})).state == state


@pytest.mark.parametrize(
    ("robust", "clean", "state"),
    [(60, -60, "agrees"), (60, 60, "differs"), (-60, -60, "differs"), (60, 0, "not decided"), (0, -60, "not decided")],
)
def test_softplus_trades_clean_accuracy_for_robustness(robust: int, clean: int, state: str, make_run: MakeRun) -> None:
    runs = study(make_run, {"softplus": robust}, {"softplus": clean})
    assert decide("softplus-trade", runs).state == state


@pytest.mark.one_in(3)
@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ((40, 50, 60), "agrees"),
        ((40, 60, 50), "not decided"),
        ((40, 0, 60), "not decided"),
        ((40, -40, 60), "differs"),
    ],
)
def test_smooth_derivatives_help_most_together(counts: tuple[int, int, int], state: str, make_run: MakeRun) -> None:
    more = dict(zip((ATTACKER, OPTIMIZER, f"{ATTACKER}, {OPTIMIZER}"), counts, strict=True))
    decision = decide("backward", [*study(make_run, {"silu": 60}), *changed(make_run, more)])
    assert decision.state == state
    assert [one.difference for one in decision.evidence] == pytest.approx([count / SOME for count in counts])


def test_smooth_derivatives_are_compared_on_equal_seeds(make_run: MakeRun) -> None:
    runs = [
        *study(make_run, {}, seeds=3),
        *changed(make_run, {ATTACKER: 40, OPTIMIZER: 50, f"{ATTACKER}, {OPTIMIZER}": 60}),
    ]
    assert decide("backward", runs).state == "agrees"
    runs.append(network(make_run, "relu", 2, 142, change=ATTACKER))
    assert decide("backward", runs).state == "not yet measured"


@pytest.mark.parametrize(("more", "state"), [(60, "agrees"), (-60, "differs"), (0, "not decided")])
def test_the_gain_after_pgd_training_is_that_of_the_trained_so(more: int, state: str, make_run: MakeRun) -> None:
    change = "method.steps=10"
    runs = [*changed(make_run, {change: 20}), *changed(make_run, {change: 20 + more}, "silu")]
    decision = decide("pgd-training", [*study(make_run, {"silu": -more}), *runs])
    assert decision.state == state
    assert decision.evidence[0].difference == pytest.approx(more / SOME)


@pytest.mark.parametrize(("elu", "celu", "state"), [(-60, 30, "agrees"), (-60, -60, "differs"), (0, 0, "not decided")])
def test_elu_loses_and_celu_does_not(elu: int, celu: int, state: str, make_run: MakeRun) -> None:
    runs = study(make_run, {"elu": 0, "elu:alpha=2": elu, "celu:alpha=2": celu})
    results = StudyResults("T", tuple(runs), {}, reference="elu")
    assert CRITERIA["elu-and-celu"].decide(Studied(results)).state == state


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("falls", "state"), [((2, 2), "agrees"), ((2, 5), "not decided"), ((5, 5), "differs")])
def test_robustness_saturates(falls: tuple[int, int], state: str, make_run: MakeRun) -> None:
    """Of 300 images; one point is three. Images beyond the first 300 met PGD-10 alone and do not count."""
    runs = [
        make_run(
            name,
            first(N, N),
            {(WEAK, "Linf", EPS): [*first(100 + fall, SOME), *[True] * 100]}
            | ({(PGD, "Linf", EPS): first(100, SOME)} if seed < 5 else {}),  # seed 5 met PGD-10 alone
            seed=seed,
        )
        for name, fall in zip(("relu", "silu"), falls, strict=True)
        for seed in range(6)
    ]
    decision = decide("saturation", runs)
    assert decision.state == state
    assert [one.difference for one in decision.evidence] == pytest.approx([fall / SOME for fall in falls])
    assert {one.seeds for one in decision.evidence} == {5}


def test_a_seed_that_is_there_twice_decides_nothing(make_run: MakeRun) -> None:
    runs = study(make_run, {"silu": 0})
    assert decide("saturation", runs).state == "agrees"
    outcomes = {(WEAK, "Linf", EPS): first(120, N), (PGD, "Linf", EPS): first(20, SOME)}
    again = make_run(
        "silu", first(200, N), outcomes, seed=0, digest="again", recipe="digits-cnn", config=" silu", family=""
    )
    assert decide("saturation", [*runs, again]).state == "not yet measured"


@pytest.mark.parametrize(("above", "state"), [(2, "agrees"), (3, "differs")])
def test_rapid_is_close_to_autoattack(above: int, state: str, make_run: MakeRun) -> None:
    """2 of 400 images are 0.5 points."""
    runs = [
        make_run(
            name,
            first(N, N),
            {(RAPID, "Linf", EPS): first(100 + above, N), (AA, "Linf", EPS): first(100, N)},
            seed=seed,
        )
        for name in ("relu", "silu")
        for seed in range(5)
    ]
    decision = decide("rapid", runs)
    assert decision.state == state
    assert decision.evidence[0].sentence().endswith("(n = 400, 10 networks)")


def test_equal_outcomes_still_have_an_interval(make_run: MakeRun) -> None:
    """That of one network's images: without a discordant pair z^2 / (n + z^2)."""
    outcomes = {(RAPID, "Linf", EPS): first(100, N), (AA, "Linf", EPS): first(100, N)}
    decision = decide("rapid", [make_run(name, first(N, N), outcomes, seed=0) for name in ("relu", "silu")])
    (gap,) = decision.evidence
    bound = 1.959963984540054**2 / (N + 1.959963984540054**2)
    assert (decision.state, gap.difference, gap.seeds) == ("agrees", 0, 2)
    assert (gap.low, gap.high) == pytest.approx((-bound, bound))


@pytest.mark.left_out
def test_p_values_of_the_primary_question_are_adjusted_over_six_activations(make_run: MakeRun) -> None:
    runs = study(make_run, SURE | {"gelu": 9, "elu": -7, "silu": 8})
    runs += changed(make_run, {ATTACKER: 40})  # of another family of tests
    tables = {
        name: [
            run.records[run.records["attack"] == PGD].sort_values("sample_id")["broken"].to_numpy()
            for run in runs
            if (run.manifest.model.activation, run.manifest.model.recipe) == (name, "digits-cnn")
        ]
        for name in ("relu", *SURE)
    }
    alone = [crossed_difference(~np.array(tables[name]), ~np.array(tables["relu"])).p_value for name in SURE]
    expected = dict(zip(SURE, holm(alone), strict=True))
    (silu,) = decide("silu-more-robust", runs).evidence
    (smoothrelu,) = decide("smoothrelu", runs).evidence
    assert silu.p_value == pytest.approx(expected["silu"])
    assert smoothrelu.p_value == pytest.approx(expected["smoothrelu"])
    assert expected["silu"] > alone[0]


def test_what_was_not_measured_decides_nothing(make_run: MakeRun) -> None:
    runs = study(make_run, {"gelu": 60})
    for name in set(CRITERIA) - {"saturation"}:
        assert decide(name, runs).state == "not yet measured", name


def test_a_study_of_several_recipes_is_refused(make_run: MakeRun) -> None:
    runs = study(make_run, {"silu": 60})
    runs += [make_run("relu", first(9, N), {(PGD, "Linf", EPS): first(9, N)}, recipe="other", config="c", digest="d")]
    with pytest.raises(BadInput, match="2 values of: recipe"):
        decide("silu-more-robust", runs)


# what readers see


def stored(make_run: MakeRun, reports: Path, more: Counts = THREE) -> None:
    runs = [*study(make_run, more), *changed(make_run, {ATTACKER: 40, OPTIMIZER: 50, f"{ATTACKER}, {OPTIMIZER}": 60})]
    (reports / "smooth-vs-relu").mkdir(parents=True)
    (reports / "smooth-vs-relu" / RESULTS_FILE).write_bytes(encoded(StudyResults(TITLE, tuple(runs), {})))


def test_states_follow_from_the_results(make_run: MakeRun, tmp_path: Path) -> None:
    before = {one.claim.number: one for one in claims_with_states(read_claims(), tmp_path)}
    assert {before[number].state for number in (4, 6, 7, 8, 9, 10, 14)} == {"not yet measured"}
    assert {before[number].state for number in (1, 2, 3, 5, 11, 12, 13)} == {"not testable here"}
    stored(make_run, tmp_path)
    after = {one.claim.number: one for one in claims_with_states(read_claims(), tmp_path)}
    assert (after[4].state, after[7].state, after[9].state) == ("agrees", "agrees", "agrees")
    assert after[6].state == "not decided"  # more robust, equal clean accuracy
    assert (after[8].state, after[10].state) == ("not yet measured", "not yet measured")
    assert after[8].tested_at == f"{after[7].tested_at} (not yet)"
    assert after[1].tested_at == ""
    assert after[4].words == f"agrees; {OFF_SCALE}"
    assert after[None].state == "not yet measured"
    assert not after[None].is_off_scale
    assert any("silu against relu, Linf 8/255 under PGD-50: +20.0 [" in sentence for sentence in after[4].sentences)


def test_a_claim_of_two_tests_differs_where_one_does(make_run: MakeRun, tmp_path: Path) -> None:
    stored(make_run, tmp_path, THREE | {"silu": -60})
    claim = next(one for one in claims_with_states(read_claims(), tmp_path) if one.claim.number == 4)
    assert [test.decision.state for test in claim.tests] == ["differs", "agrees"]
    assert claim.state == "differs"


@pytest.mark.left_out
def test_the_command_prints_states_and_json(make_run: MakeRun, tmp_path: Path) -> None:
    stored(make_run, tmp_path)
    shown = CliRunner().invoke(app, ["claims", "--reports", str(tmp_path)])
    assert shown.exit_code == 0, shown.output
    assert f" 4  agrees; {OFF_SCALE}: SiLU beats ReLU" in shown.output
    assert " 1  not testable here: " in shown.output
    printed = CliRunner().invoke(app, ["claims", "--json", "--reports", str(tmp_path)])
    entries = {one["number"]: one for one in json.loads(printed.output)}
    assert len(entries) == 15
    assert (entries[4]["state"], entries[4]["tested_at_its_scale"]) == ("agrees", False)
    (figure,) = entries[4]["tests"][0]["figures"]
    assert figure["low"] < figure["difference"] == pytest.approx(0.2)
    assert figure["n"] == SOME


def test_the_leaderboard_page_shows_every_claim(tmp_path: Path) -> None:
    claims = claims_with_states(read_claims(), tmp_path)
    page = build([], claims)["index.html"]
    assert page.count("not testable here") == 7
    assert page.count(f"not yet measured; {OFF_SCALE}") == 7
    assert list(claims_table(claims)["number"]) == [*map(str, NUMBERED), "-"]
    assert 'id="claims"' not in build([])["index.html"]


def test_results_of_another_study_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    (tmp_path / "smooth-vs-relu").mkdir()
    file = tmp_path / "smooth-vs-relu" / RESULTS_FILE
    file.write_bytes(encoded(StudyResults("T", tuple(study(make_run, THREE)), {})))
    with pytest.raises(BadInput, match=rf"holds 'T' and not '{TITLE}'"):
        claims_with_states(read_claims(), tmp_path)


def test_damaged_results_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    stored(make_run, tmp_path)
    file = tmp_path / "smooth-vs-relu" / RESULTS_FILE
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(BadInput, match=r"results\.json\.gz is missing or damaged"):
        claims_with_states(read_claims(), tmp_path)
