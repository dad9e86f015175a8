"""The gate: figures held against approved ones, on this machine and on another."""

from pathlib import Path

import pandas as pd
import pytest
import yaml

from satbench.core.errors import BadInput
from satbench.regression import Baseline, compare, read_baseline, write_baseline
from satbench.regression.baseline import Outcomes, outcomes

HERE, THERE, DATA = "machine", "other machine", "sha256:data"


def figure(*right: bool) -> Outcomes:
    return Outcomes(correct=sum(right), n=len(right), right="".join("01"[one] for one in right))


def first(count: int, n: int = 100) -> Outcomes:
    return figure(*(i < count for i in range(n)))


def baseline(spread: float = 2.0, **figures: Outcomes) -> Baseline:
    return Baseline(
        reason="measured",
        fingerprint=HERE,
        data_digest=DATA,
        versions={"torch": "2.11"},
        figures=figures,
        spread=dict.fromkeys(figures, spread),
    )


def test_equal_outcomes_have_not_moved_anywhere() -> None:
    for machine in (HERE, THERE):
        (finding,) = compare(baseline(clean=first(90)), {"clean": first(90)}, machine, DATA)
        assert not finding.moved


def test_one_flipped_sample_moves_a_figure_on_the_same_machine() -> None:
    findings = compare(baseline(clean=first(90), pgd=first(50)), {"clean": first(90), "pgd": first(51)}, HERE, DATA)
    assert {finding.figure: finding.moved for finding in findings} == {"clean": False, "pgd": True}
    sentence = findings[1].sentence
    for part in ("pgd", "50.0%", "51.0%", "1 of 100 samples"):
        assert part in sentence


def test_two_flips_that_cancel_move_a_figure_on_the_same_machine() -> None:
    swapped = figure(False, *(True for _ in range(49)), True, *(False for _ in range(49)))
    assert swapped.correct == 50
    (finding,) = compare(baseline(pgd=first(50)), {"pgd": swapped}, HERE, DATA)
    assert finding.moved
    assert "2 of 100" in finding.sentence


@pytest.mark.parametrize(
    ("spread", "now", "moved"),
    [
        (2.0, 52, False),  # p = 0.5
        (2.0, 60, False),  # p = 2 / 2**10 = 0.00195
        (2.0, 61, True),  # p = 2 / 2**11 = 0.00098
        (2.0, 39, True),
        (15.0, 61, False),  # seeds differ by more
        (10.9, 61, True),
        (11.1, 61, False),
    ],
)
def test_another_machine_needs_a_significant_move_beyond_the_seeds(spread: float, now: int, moved: bool) -> None:
    (finding,) = compare(baseline(spread, pgd=first(50)), {"pgd": first(now)}, THERE, DATA)
    assert finding.moved is moved
    for part in ("pgd", "50.0%", f"{now}.0%", "100 samples"):
        assert part in finding.sentence


def test_other_images_are_refused() -> None:
    with pytest.raises(BadInput, match=r"sha256:other.*sha256:data"):
        compare(baseline(clean=first(9)), {"clean": first(9)}, HERE, "sha256:other")


@pytest.mark.parametrize("names", [["clean"], ["clean", "pgd", "fgsm"], ["clean", "fgsm"]])
def test_missing_and_new_figures_are_refused(names: list[str]) -> None:
    with pytest.raises(BadInput, match=r"different figures.*(pgd|fgsm)"):
        compare(baseline(clean=first(9), pgd=first(9)), {name: first(9) for name in names}, HERE, DATA)


def test_figures_are_counted_from_records() -> None:
    rows = [
        {"sample_id": s, "label": 1, "clean_prediction": c, "attack": "pgd", "norm": "Linf", "eps": e, "broken": b}
        for s, c, e, b in (
            ("b", 1, 0.1, False),
            ("a", 1, 0.1, True),
            ("c", 0, 0.1, True),
            ("b", 1, 0.2, True),
            ("a", 1, 0.2, True),
            ("c", 0, 0.2, True),
        )
    ]
    assert outcomes(pd.DataFrame(rows)) == {
        "clean": Outcomes(correct=2, n=3, right="110"),
        "pgd at Linf 0.1": Outcomes(correct=1, n=3, right="010"),
        "pgd at Linf 0.2": Outcomes(correct=0, n=3, right="000"),
    }


# the file


def test_a_baseline_is_read_back_and_other_suites_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "baselines.yaml"
    one = baseline(clean=first(90, 449), pgd=figure(False, True, True, False))
    two = baseline(clean=figure(False, False))
    write_baseline(file, "one", one)
    write_baseline(file, "two", two)
    assert read_baseline(file, "one") == one
    assert read_baseline(file, "two") == two
    changed = one.model_copy(update={"reason": "an attack got stronger: ε"})
    write_baseline(file, "one", changed)
    assert read_baseline(file, "one") == changed
    assert read_baseline(file, "two") == two
    assert file.read_text(encoding="utf-8").startswith("# Approved numbers")


def test_equal_baselines_are_equal_bytes(tmp_path: Path) -> None:
    for name in "ab":
        write_baseline(tmp_path / name, "suite", baseline(pgd=first(9), clean=first(5)))
    write_baseline(tmp_path / "b", "suite", baseline(clean=first(5), pgd=first(9)))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_unknown_suites_and_missing_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--approve"):
        read_baseline(tmp_path / "baselines.yaml", "digits-quick")
    write_baseline(tmp_path / "baselines.yaml", "digits-quick", baseline(clean=first(9)))
    with pytest.raises(BadInput, match="digits-quick"):
        read_baseline(tmp_path / "baselines.yaml", "digits-quik")


@pytest.mark.parametrize("text", ["a: [", "- one", "", "\t", "just words", "a: b: c"])
def test_malformed_files_are_refused_and_kept(text: str, tmp_path: Path) -> None:
    file = tmp_path / "baselines.yaml"
    file.write_text(text)
    with pytest.raises(BadInput, match=r"baselines\.yaml"):
        read_baseline(file, "suite")
    with pytest.raises(BadInput, match=r"baselines\.yaml"):
        write_baseline(file, "suite", baseline(clean=first(9)))
    assert file.read_text() == text


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ({"reason": None}, "reason"),
        ({"mood": "good"}, "mood"),
        ({"figures": {"clean": {"correct": 1, "n": 0, "right": "1"}}}, r"figures\.clean\.n"),
        ({"figures": {"clean": {"correct": 1, "n": 1, "right": "yes"}}}, r"figures\.clean\.right"),
        ({"figures": {"clean": {"correct": 1, "n": 3, "right": "10"}}}, "clean"),
        ({"figures": {"clean": {"correct": 2, "n": 2, "right": "10"}}}, "clean"),
        ({"spread": {}}, "spread"),
    ],
)
def test_a_wrong_entry_is_refused_by_field(change: dict[str, object], hint: str, tmp_path: Path) -> None:
    file = tmp_path / "baselines.yaml"
    entry = {**baseline(clean=first(9)).model_dump(), **change}
    file.write_text(yaml.safe_dump({"suite": entry}))
    with pytest.raises(BadInput, match=f"'suite'.*{hint}"):
        read_baseline(file, "suite")
