"""What each stage removed, on records counted by hand."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from satbench.core.errors import BadInput
from satbench.reporting import page
from satbench.reporting.results_file import StudyResults
from satbench.reporting.stages import AS_IT_IS, CARRIED, stage_table
from satbench.results.schema import TIMING
from satbench.results.store import Run, write_run

from .made import EPS, PGD, MakeRun, first

CASCADE = "Cascade(unit=250)"
FGSM, APGD, SQUARE = (
    "PGD(steps=1, step_size=None, loss='ce', init='zero', restarts=1, keep='best')",
    "AutoAttackComponent(name='apgd-t', unit=250)",
    "AutoAttackComponent(name='square', unit=250)",
)


def an_ensemble(make_run: MakeRun) -> Run:
    """Ten images, one wrong as it is. At EPS FGSM breaks 3, APGD-T 1, Square none; at 2 EPS APGD-T breaks 2 more."""
    clean, small, large = first(9, 10), first(5, 10), first(3, 10)
    run = make_run("silu", clean, {(CASCADE, "Linf", EPS): small, (CASCADE, "Linf", 2 * EPS): large})
    records = run.records.assign(stage="")
    stages = {8: FGSM, 7: FGSM, 6: FGSM, 5: APGD, 4: APGD, 3: APGD}
    position = records["sample_id"].str[-1].astype(int)
    records.loc[records["broken"], "stage"] = position.map(stages).fillna("")
    records.loc[records["broken"] & (records["eps"] == 2 * EPS) & (position >= 5), ["forward", "backward"]] = 0
    timing = [
        (CASCADE, FGSM, "Linf", EPS, 5, 10, 5, 0.1),
        (CASCADE, FGSM, "Linf", EPS, 4, 8, 4, 0.1),
        (CASCADE, APGD, "Linf", EPS, 6, 600, 594, 1.0),
        (CASCADE, SQUARE, "Linf", EPS, 5, 25_000, 0, 9.0),
        (CASCADE, FGSM, "Linf", 2 * EPS, 5, 10, 5, 0.1),
        (CASCADE, APGD, "Linf", 2 * EPS, 5, 300, 295, 1.0),
        (CASCADE, SQUARE, "Linf", 2 * EPS, 3, 15_003, 0, 9.0),
    ]
    return write_run(run.path, run.manifest, records, pd.DataFrame(timing, columns=TIMING.names))


def test_stages_stand_in_the_order_in_which_they_ran_with_what_they_removed(make_run: MakeRun) -> None:
    lines = stage_table(an_ensemble(make_run)).to_numpy().tolist()
    assert lines == [
        ["Cascade", "Linf 8/255", AS_IT_IS, "10", "1", "9", "-"],
        ["Cascade", "Linf 8/255", "FGSM", "9", "3", "6", "2.0 + 1.0"],
        ["Cascade", "Linf 8/255", "APGD-T", "6", "1", "5", "100.0 + 99.0"],
        ["Cascade", "Linf 8/255", "Square", "5", "0", "5", "5000.0 + 0.0"],
        ["Cascade", "Linf 16/255", AS_IT_IS, "10", "1", "9", "-"],
        ["Cascade", "Linf 16/255", CARRIED, "9", "4", "5", "-"],
        ["Cascade", "Linf 16/255", "FGSM", "5", "0", "5", "2.0 + 1.0"],
        ["Cascade", "Linf 16/255", "APGD-T", "5", "2", "3", "60.0 + 59.0"],
        ["Cascade", "Linf 16/255", "Square", "3", "0", "3", "5001.0 + 0.0"],
    ]


def test_an_attack_alone_has_no_stages(make_run: MakeRun) -> None:
    assert stage_table(make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})).empty


@pytest.mark.left_out
def test_the_page_has_the_table_where_there_is_an_ensemble(make_run: MakeRun, tmp_path: Path) -> None:
    run = an_ensemble(make_run)
    text = page.write_report(tmp_path / "r", StudyResults("T", (run,), {})).index.read_text()
    assert "What each stage of an ensemble removed" in text
    assert "100.0 + 99.0" in text
    plain = make_run("relu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    assert "each stage" not in page.write_report(tmp_path / "p", StudyResults("T", (plain,), {})).index.read_text()


@pytest.mark.parametrize("content", [None, b"", b"no parquet"])
def test_missing_and_damaged_times_are_refused(content: bytes | None, make_run: MakeRun, tmp_path: Path) -> None:
    run = replace(an_ensemble(make_run), path=tmp_path / "elsewhere")
    run.path.mkdir()
    if content is not None:
        (run.path / "timing.parquet").write_bytes(content)
    with pytest.raises(BadInput, match=r"timing\.parquet is missing or damaged"):
        stage_table(run)
