"""The figures of a run as data frames."""

from pathlib import Path

import pytest

import satbench
from satbench.core.errors import BadInput
from satbench.results.metrics import wilson
from satbench.results.store import Run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("analysis") / "run"
    satbench.evaluate("digits-silu", out=out, attack=["fgsm", "pgd"], eps="0.1,0.2", steps="5", n=40)
    return satbench.load_run(out)


def test_summary_counts_what_the_records_say(run: Run) -> None:
    table = run.summary().set_index(["attack", "eps"])
    records = run.records
    once = records.drop_duplicates("sample_id")
    clean = int((once["clean_prediction"] == once["label"]).sum())
    assert table.loc[("clean", 0.0), ["n", "correct"]].tolist() == [40, clean]
    broken = records[records["eps"] == 0.2].groupby("sample_id")["broken"].any()
    worst = table.loc[("worst case", 0.2)]
    assert worst["correct"] == int((~broken).sum())
    assert (worst["low"], worst["high"]) == wilson(worst["correct"], 40)
    assert set(table.index.get_level_values(0)) == {"clean", "FGSM", "PGD-5", "worst case"}


def test_curve_begins_at_clean_accuracy_and_never_rises(run: Run) -> None:
    curve = run.curve()
    assert curve["eps"].tolist() == [0.0, 0.1, 0.2]
    assert curve["accuracy"].is_monotonic_decreasing
    assert (
        curve.iloc[1:][["eps", "correct"]].to_numpy().tolist()
        == run.worst_case()[["eps", "correct"]].to_numpy().tolist()
    )
    assert run.curve("FGSM")["correct"].iloc[-1] >= curve["correct"].iloc[-1]
    with pytest.raises(BadInput, match=r"has no attack 'square'; it has FGSM, PGD-5"):
        run.curve("square")


def test_classes_add_up_to_the_worst_case(run: Run) -> None:
    classes = run.by_class(eps=0.2)
    assert classes["n"].sum() == 40
    assert classes.equals(run.by_class(eps="0.2"))
    assert classes["correct"].sum() == run.worst_case().set_index("eps").loc[0.2, "correct"]
    clean = (classes["clean"] * classes["n"]).sum()
    assert clean == pytest.approx(run.summary().iloc[0]["correct"])
    with pytest.raises(BadInput, match=r"by_class is of one threat, and nothing was given; .* Linf 0.1, Linf 0.2"):
        run.by_class()
    with pytest.raises(BadInput, match=r"and 0.3 was given"):
        run.by_class(eps=0.3)


def test_two_runs_are_compared_from_python(run: Run, tmp_path: Path) -> None:
    other = satbench.evaluate("digits-relu", out=tmp_path / "b", attack=["fgsm", "pgd"], eps="0.2", steps="5", n=40)
    found = satbench.compare(run, other)
    assert found.shared == 40
    assert satbench.compare(str(run.path), other.path).figures == found.figures
    assert found.figures[0].quantity == "clean accuracy"
