"""The gate's judgement and its baseline file, on outcomes by hand."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reporting.made import AA, EPS, PGD, MakeRun, first, known, make_run, trust
from scipy.stats import binomtest

from satbench.core.errors import BadInput
from satbench.regression import (
    Baseline,
    Measured,
    NetworkVerdict,
    Outcomes,
    SuiteVerdict,
    read_baseline,
    write_baseline,
)
from satbench.regression.baseline import baseline_file
from satbench.regression.compare import Expected, Seen, changes, check_figures, check_same, judge, trust_state
from satbench.regression.figures import figures_of
from satbench.regression.table import figure_table, headline, sentences
from satbench.regression.verdict import as_data
from satbench.results.sequential import LEVEL, MISS
from satbench.specs.study import Published

__all__ = ["make_run"]
HERE, THERE, N = "machine", "other machine", 400


def right(count: int, n: int = N) -> np.ndarray:
    return np.arange(n) < count


def measured(**figures: np.ndarray) -> Measured:
    held = {name: Outcomes.of(one) for name, one in figures.items()}
    return Measured(
        network="sha256:a", training=None, asked="asked", data="sha256:data", numerics=HERE, trust="pass", figures=held
    )


def judged(
    approved: Measured | None, now: dict[str, np.ndarray], numerics: str = HERE, tolerance: float = 0.0, **more: Any
) -> NetworkVerdict:
    """The verdict on as many images as `now` has, of `N`."""
    n = len(next(iter(now.values())))
    names = dict.fromkeys(now, tolerance)
    published, units = more.pop("published", {}), more.pop("by_units", False)
    expected = Expected("net", approved, published, names, 0.05, N, units)
    seen = {"network": "sha256:a", "training": None, "numerics": numerics, "trust": trust("pass"), "passes": 7} | more
    return judge([(expected, Seen([f"test/{i}" for i in range(n)], now, **seen))])[0]


@pytest.mark.parametrize("numerics", [HERE, THERE])
def test_equal_outcomes_have_not_changed_anywhere(numerics: str) -> None:
    found = judged(measured(clean=right(360)), {"clean": right(360)}, numerics)
    assert found.state == "unchanged"
    assert found.figures[0].basis == ("bit for bit" if numerics == HERE else "paired")


@pytest.mark.parametrize("flip", [359, 360])
def test_one_flip_either_way_is_a_change_on_equal_numerics(flip: int) -> None:
    now = right(360)
    now[flip] = ~now[flip]
    (found,) = judged(measured(pgd=right(360)), {"pgd": now}).figures
    assert found.state == "changed"
    assert found.lost + found.gained == (f"test/{flip}",)
    assert f"test/{flip}" in found.sentence
    assert "equal numerics" in found.sentence
    assert judged(measured(pgd=right(360)), {"pgd": now}, THERE).state == "unchanged"


def test_flips_that_cancel_are_a_change_on_equal_numerics() -> None:
    now = right(360)
    now[[0, 399]] = False, True
    (found,) = judged(measured(pgd=right(360)), {"pgd": now}).figures
    assert (found.now, found.before, found.state) == (360, 360, "changed")


@pytest.mark.parametrize(("now", "state"), [(365, "unchanged"), (380, "changed"), (355, "unchanged"), (340, "changed")])
def test_elsewhere_a_move_must_be_more_than_chance_in_both_directions(now: int, state: str) -> None:
    found = judged(measured(pgd=right(360)), {"pgd": right(now)}, THERE)
    assert found.state == state
    assert (binomtest(0, abs(now - 360)).pvalue < LEVEL * 0.3) == (state == "changed")


@pytest.mark.parametrize(("tolerance", "state"), [(0.0, "changed"), (0.02, "changed"), (0.05, "unchanged")])
def test_a_tolerance_accepts_moves_up_to_its_size(tolerance: float, state: str) -> None:
    for now in (340, 380):
        (found,) = judged(measured(pgd=right(360)), {"pgd": right(now)}, THERE, tolerance).figures
        assert found.state == state
        assert ("accepted" in found.sentence) == (tolerance > 0)


def test_a_tolerance_is_for_another_network_or_machine() -> None:
    """On equal numerics the same weights, and the same training, must give the same bits."""
    now = right(359)
    same = measured(pgd=right(360))
    assert judged(same, {"pgd": now}, tolerance=0.05).state == "changed"
    assert judged(same, {"pgd": now}, tolerance=0.05, network="sha256:b").state == "unchanged"
    assert judged(same, {"pgd": now}, network="sha256:b").state == "changed"
    trained = same.model_copy(update={"training": "t-1"})
    assert judged(trained, {"pgd": now}, tolerance=0.05, network="sha256:b", training="t-1").state == "changed"
    assert judged(trained, {"pgd": now}, tolerance=0.05, network="sha256:b", training="t-2").state == "unchanged"


def test_figures_are_open_until_a_drop_is_excluded() -> None:
    approved = measured(pgd=right(360))
    states = [judged(approved, {"pgd": right(n, n)}, THERE).state for n in (20, 64, 120, N)]
    assert states[0] == "open"
    assert states[2] == "unchanged"
    early = judged(approved, {"pgd": ~right(20, 20)}, THERE).figures[0]
    assert early.state == "changed"
    assert (early.n, early.images) == (20, N)


def test_units_are_compared_bit_for_bit_on_all_images_only() -> None:
    approved = measured(aa=right(360))
    assert judged(approved, {"aa": ~right(100, 100)}, by_units=True).state == "open"
    assert judged(approved, {"aa": right(359)}, by_units=True).state == "changed"


def test_many_figures_are_adjusted_together() -> None:
    """Of one figure 9 images flip: p = 2 / 2^9, twenty times that is above the level."""
    one = judged(measured(a=right(360)), {"a": right(351)}, THERE)
    others = {f"b{i}": right(360) for i in range(19)}
    many = judged(measured(a=right(360), **others), {"a": right(351), **others}, THERE)
    assert (one.state, many.state) == ("changed", "unchanged")
    assert many.figures[0].p_value == pytest.approx(20 * one.figures[0].p_value)


@pytest.mark.parametrize(
    ("before", "now", "n", "state"),
    [
        ("pass", "pass", N, "unchanged"),
        ("suspicious", "pass", N, "unchanged"),
        ("pass", "suspicious", N, "changed"),
        ("pass", "not checked", N, "changed"),
        ("pass", "not checked", 100, "open"),
        ("pass", "fail", 100, "changed"),
        ("fail", "fail", N, "unchanged"),
    ],
)
def test_trust_that_fell_fails_the_gate_though_the_number_rose(before: str, now: str, n: int, state: str) -> None:
    approved = measured(pgd=right(N)).model_copy(update={"trust": before})
    found = judged(approved, {"pgd": right(n, n)}, trust=trust(now, "gradients vanish"))
    assert found.trust_state == state
    assert found.state == state
    if state != "unchanged":
        (said,) = sentences(SuiteVerdict("a.yaml", "", LEVEL, MISS, (found,)))
        assert f"trust {before} before, {now} now" in said
    if state == "changed":
        assert "cannot be believed" in said


def test_a_rise_is_named_together_with_the_trust_that_fell() -> None:
    found = judged(
        measured(pgd=right(200)), {"pgd": right(300)}, THERE, trust=trust("fail", "the gradient of 40% is 0")
    )
    said = "\n".join(sentences(SuiteVerdict("a.yaml", "first", LEVEL, MISS, (found,))))
    assert "changed: net: pgd: 50.0% before, 75.0%" in said
    assert "gained 100 (test/200" in said
    assert "trust pass before, fail now" in said
    assert "the gradient of 40% is 0" in said


def test_a_published_rate_is_compared_on_all_images() -> None:
    rate = {"pgd": Published(rate=90, n=10_000)}
    for now, state in ((360, "unchanged"), (310, "changed"), (395, "changed")):
        assert judged(None, {"pgd": right(now)}, published=rate).state == state
    assert judged(None, {"pgd": right(90, 100)}, published=rate).state == "open"
    (found,) = judged(None, {"pgd": right(310)}, published=rate).figures
    assert (found.basis, found.before, found.lost) == ("published", 360, ())


def test_the_verdict_is_data_and_a_table() -> None:
    now = right(360)
    now[3] = False
    verdict = SuiteVerdict("a.yaml", "why", LEVEL, MISS, (judged(measured(pgd=right(360)), {"pgd": now}),))
    said = json.loads(json.dumps(as_data(verdict)))
    assert said["state"] == "changed"
    (figure,) = said["networks"][0]["figures"]
    assert (figure["lost"], figure["now"], figure["before"]) == (["test/3"], 359, 360)
    assert "| net | pgd | 400 of 400 | 90.0 | 89.7 [" in figure_table(verdict)
    assert headline(verdict) == "a.yaml: changed after 400 of 400 images, 7 passes (approved: why)"


def test_a_reason_or_name_with_line_breaks_gives_no_second_line() -> None:
    forged = "ok)\n## Robustness: unchanged\r\x1b[2K"
    found = judged(measured(**{forged: right(360)}), {forged: ~right(360)})
    verdict = SuiteVerdict(forged, forged, LEVEL, MISS, (found,))
    for line in (headline(verdict), *sentences(verdict)):
        assert line.isprintable()
        assert "ok) ## Robustness: unchanged" in line


# other suites


def test_another_evaluation_other_images_and_counts_are_refused() -> None:
    one = measured(clean=right(9))
    check_same("net", one, "asked", "sha256:data", N)
    for given, words in (
        (("other", "sha256:data", N), r"the evaluation \(attacks, threats, .*\) is not the one that was approved"),
        (("asked", "sha256:other", N), r"the images \(digest sha256:other\) are not those .* \(sha256:data\)"),
        (("asked", "sha256:data", 9), "clean was approved on 400 images, the suite has 9"),
    ):
        with pytest.raises(BadInput, match=f"{words}; restore .* approve the suite again"):
            check_same("net", one, *given)


def test_unknown_missing_and_new_figures_are_refused() -> None:
    expected = Expected("net", measured(clean=right(9), pgd=right(9)), {}, {}, 0.05, N)
    check_figures(expected, ["clean", "pgd"])
    with pytest.raises(BadInput, match="'pgd' is approved and not measured"):
        check_figures(expected, ["clean"])
    with pytest.raises(BadInput, match="'fgsm' is measured and not approved"):
        check_figures(expected, ["clean", "pgd", "fgsm"])
    typo = Expected("net", None, {"pdg": Published(rate=1, n=1)}, {}, 0.05, N)
    with pytest.raises(BadInput, match="no figure 'pdg'; the figures are clean, pgd"):
        check_figures(typo, ["clean", "pgd"])


def test_figures_are_read_from_a_run(make_run: MakeRun) -> None:
    robust = {(PGD, "Linf", EPS): first(3, 5), (AA, "Linf", EPS): [False, True, True, True, False]}
    run = make_run("relu", first(4, 5), robust)
    found = figures_of(run, [known(one) for one in sorted((AA, PGD))])
    assert {name: one.tolist() for name, one in found.items()} == {
        "clean": first(4, 5),
        "AutoAttack standard at Linf 8/255": [False, True, True, True, False],
        "PGD-50 at Linf 8/255": first(3, 5),
        "worst case at Linf 8/255": [False, True, True, False, False],
    }


# the file


def baseline(**changed: Any) -> Baseline:
    fields: dict[str, Any] = {"reason": "an attack got stronger: ε", "versions": {"torch": "2.11"}, "revision": None}
    return Baseline(**fields | {"measured": {"net, PGD": measured(clean=right(390, 450), pgd=right(3, 450))}} | changed)


def test_a_baseline_is_read_back_and_has_a_line_a_figure(tmp_path: Path) -> None:
    file = baseline_file(tmp_path / "deep" / "mine.yaml")
    assert file.name == "mine.baseline.json"
    write_baseline(file, baseline())
    assert read_baseline(file) == baseline()
    held = read_baseline(file).measured["net, PGD"].figures["clean"]
    assert held.unpacked.tolist() == right(390, 450).tolist()
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if '"right"' in line]
    assert len(lines) == 2
    assert max(map(len, lines)) < 200
    written = file.read_bytes()
    write_baseline(file, baseline())
    assert file.read_bytes() == written


def edited(text: str, old: str, new: str) -> str:
    assert old in text
    return text.replace(old, new, 1)


def without_figure(text: str) -> str:
    raw = json.loads(text)
    del raw["measured"]["net, PGD"]["figures"]["pgd"]
    return json.dumps(raw)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: edited(t, '"right": 390', '"right": 391'), r"figures\.clean.*390 bits are 1, not 391"),
        (lambda t: edited(t, '"bits": "/', '"bits": "+'), r"figures\.clean.*bits and digest do not match"),
        (lambda t: edited(t, '"n": 450', '"n": 460'), r"figures\.clean.*has 57 bytes, 460 images take 58"),
        (without_figure, "changed after it was approved"),
        (lambda t: edited(t, "sha256:data", "sha256:date"), "changed after it was approved"),
        (lambda t: edited(t, '"trust": "pass"', '"trust": "fail"'), "changed after it was approved"),
        (lambda t: edited(t, "2.11", "2.12"), "changed after it was approved"),
        (lambda t: edited(t, '"digest"', '"digesd"'), "unknown field"),
        (lambda t: edited(t, '"format": 1', '"format": 2'), "has format 2"),
        (lambda t: t[:-40], "cannot be read as JSON"),
        (lambda _: "[1]", "is not a mapping"),
        (lambda t: edited(t, '"bits": "', '"bits": "?'), r"figures\.clean"),
    ],
)
def test_a_tampered_or_damaged_baseline_is_refused(change: Callable[[str], str], words: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.baseline.json"
    write_baseline(file, baseline())
    file.write_text(change(file.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(BadInput, match=rf"mine\.baseline\.json.*{words}.*(restore|approve)"):
        read_baseline(file)


def test_a_missing_baseline_says_how_it_is_made(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"satbench check STUDY\.yaml --approve REASON"):
        read_baseline(tmp_path / "mine.baseline.json")


def test_approving_says_what_changes() -> None:
    now = measured(clean=right(388, 450), fgsm=right(1, 450)).model_copy(update={"trust": "suspicious"})
    said = changes(baseline(), baseline(measured={"net, PGD": now, "other": now}))
    assert said == [
        "net, PGD: trust pass -> suspicious",
        "net, PGD: pgd: no longer measured",
        "net, PGD: clean: 390 of 450 right -> 388 of 450; 2 images lost, 0 gained",
        "net, PGD: fgsm: new, 1 of 450 right",
        "other: new",
    ]
    assert changes(baseline(), baseline()) == []


def test_trust_that_was_not_checked_is_looked_at_again_where_a_figure_rose() -> None:
    assert trust_state("not checked", "not checked", is_whole=False, rose=True) == "open"
    assert trust_state("not checked", "not checked", is_whole=False) == "unchanged"
    assert trust_state("not checked", "not checked", is_whole=True, rose=True) == "unchanged"
    assert trust_state("not checked", "fail", is_whole=False, rose=True) == "changed"
