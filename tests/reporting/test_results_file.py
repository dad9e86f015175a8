"""The results of a study as one small file, from which the page is built again."""

import base64
import gzip
import json
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from satbench.core.errors import BadInput
from satbench.reporting.background import Background, spent
from satbench.reporting.page import write_report
from satbench.reporting.pictures import Picture
from satbench.reporting.results_file import RESULTS_FILE, StudyResults, encoded, read_results
from satbench.results.schema import TIMING
from satbench.results.store import Run, read_run, read_timing, write_run

from .made import AA, EPS, PGD, MakeRun, first, trust
from .test_page import CURVES

PIXELS = np.arange(48).reshape(4, 4, 3)
PICTURE = Picture(
    "net", "PGD-50", "test/0", "cat", "cat", "dog", 8 / 255, *(PIXELS.astype(kind) for kind in ("u1", "i1", "u1"))
)
BACKGROUND = Background(
    "Plan\n\n## Departures\nNone <b>so far</b>.\n", ("satbench study x.yaml",), {"a": 90.0}, (PICTURE,)
)


def with_stages(run: Run) -> Run:
    """The run with an ensemble's stages: one that broke the last images, and one that was met by the rest."""
    records = run.records.copy()
    ensemble = records["attack"] == AA
    records.loc[ensemble & records["broken"], "stage"] = "apgd-ce"
    rows = [
        (AA, stage, "Linf", EPS, images, images * 10, images * 9, 1.5)
        for stage, images in (("apgd-ce", 20), ("apgd-ce", 18), ("square", 20))
    ]
    info = next(one for one in run.manifest.attacks if one.id == AA)
    stages = tuple(info.model_copy(update={"id": id, "label": id}) for id in ("apgd-ce", "square"))
    attacks = [one if one.id != AA else one.model_copy(update={"stages": stages}) for one in run.manifest.attacks]
    manifest = run.manifest.model_copy(update={"attacks": attacks})
    return write_run(run.path, manifest, records, pd.DataFrame(rows, columns=TIMING.names))


def some_runs(make_run: MakeRun) -> list[Run]:
    """Two seeds of two activations, attacks on different numbers of images, and what few runs have."""
    runs = [
        make_run(
            name,
            first(38, 40),
            {(PGD, "Linf", EPS): first(20 + seed, 40), (AA, "Linf", EPS): first(12, 20)},
            seed=seed,
            trust=trust("suspicious", "a doubt", "square"),
            violations=(3,),
            bad_gradients=(5,),
        )
        for name in ("relu", "silu")
        for seed in range(2)
    ]
    runs.append(
        make_run("relu", first(9, 10), {(PGD, "L2", 0.5): first(4, 10)}, draws=10, shares=[0.3] * 10, seed=None)
    )
    return [with_stages(runs[0]), *runs[1:]]


@pytest.mark.left_out
def test_the_page_of_the_file_is_that_of_the_runs(make_run: MakeRun, tmp_path: Path) -> None:
    results = StudyResults("T", tuple(some_runs(make_run)), CURVES, ("N",), background=BACKGROUND)
    written = write_report(tmp_path / "a", results)
    again = write_report(tmp_path / "b", read_results(tmp_path / "a" / RESULTS_FILE))
    assert [file.name for file in written.files] == [file.name for file in again.files]
    for one, other in zip(written.files, again.files, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name


def test_the_file_says_what_the_records_say(make_run: MakeRun, tmp_path: Path) -> None:
    runs = some_runs(make_run)
    file = tmp_path / RESULTS_FILE
    file.write_bytes(encoded(StudyResults("T", tuple(runs), CURVES)))
    columns = ["sample_id", "label", "attack", "norm", "eps", "broken", "forward", "backward", "stage", "violation"]
    for run, read in zip(runs, read_results(file).runs, strict=True):
        kept = read_run(run.path)
        assert read.manifest == kept.manifest
        pd.testing.assert_frame_equal(read.records[columns], kept.records[columns], check_dtype=False)
        right = [one.records["clean_prediction"] == one.records["label"] for one in (read, kept)]
        assert right[0].tolist() == right[1].tolist()
        assert list(read.records) == list(kept.records)
        assert read_timing(read)["images"].sum() == read_timing(kept)["images"].sum()
    assert read_results(file).runs[-1].records["correct_share"].tolist() == pytest.approx([0.3] * 10)


def test_a_row_takes_a_few_bits(make_run: MakeRun, tmp_path: Path) -> None:
    n, generator = 8000, np.random.default_rng(0)
    rates = generator.random((2, n)) < 0.4
    runs = [make_run("relu", first(n, n), {(PGD, "Linf", EPS): rates[seed].tolist()}, seed=seed) for seed in range(2)]
    sizes = [len(encoded(StudyResults("T", tuple(runs[:count]), {}))) for count in (1, 2)]
    assert sizes[1] - sizes[0] < 8 * n / 8  # a byte an image: outcomes have a bit, and passes are equal here


@pytest.mark.left_out
def test_the_page_shows_plan_commands_hours_and_examples(make_run: MakeRun, tmp_path: Path) -> None:
    results = StudyResults("T", tuple(some_runs(make_run)), CURVES, background=BACKGROUND)
    report = write_report(tmp_path / "page", results)
    text = report.index.read_text(encoding="utf-8")
    assert "None &lt;b&gt;so far&lt;/b&gt;." in text
    assert "<pre>satbench study x.yaml</pre>" in text
    assert f"<pre>satbench report {RESULTS_FILE}</pre>" in text
    assert ">hours</th>" in text
    assert (tmp_path / "page" / "examples.png").is_file()
    bare = write_report(tmp_path / "plain", StudyResults("T", results.runs, {}))
    plain = bare.index.read_text(encoding="utf-8")
    assert 'id="plan"' not in plain
    assert 'id="examples"' not in plain


def test_images_that_differ_between_runs_are_refused(make_run: MakeRun) -> None:
    outcomes = {(PGD, "Linf", EPS): first(2, 4)}
    runs = (make_run("relu", first(4, 4), outcomes), make_run("silu", first(4, 4), outcomes, hashed="other"))
    with pytest.raises(BadInput, match="sample test/00000 of digits/test differs between two runs"):
        encoded(StudyResults("T", runs, {}))


def longer(raw: dict[str, Any]) -> None:
    raw["runs"][0]["rows"] += 1


def outside(raw: dict[str, Any]) -> None:
    raw["images"][0]["ids"].pop()


def bomb(raw: dict[str, Any]) -> None:
    raw["runs"][0]["broken"] = base64.b64encode(zlib.compress(bytes(1 << 20))).decode()


def unknown(raw: dict[str, Any]) -> None:
    raw["state"] = "agrees"


def version(raw: dict[str, Any]) -> None:
    raw["version"] = 2


@pytest.mark.parametrize("change", [longer, outside, bomb, unknown, version])
def test_a_damaged_file_is_refused_in_one_line(
    change: Callable[[dict[str, Any]], None], make_run: MakeRun, tmp_path: Path
) -> None:
    file = tmp_path / RESULTS_FILE
    raw = json.loads(gzip.decompress(encoded(StudyResults("T", tuple(some_runs(make_run)[:1]), {}))))
    change(raw)
    file.write_bytes(gzip.compress(json.dumps(raw).encode()))
    with pytest.raises(BadInput, match=r"results\.json\.gz, field '.*; make it again") as caught:
        read_results(file)
    assert "\n" not in str(caught.value)


def test_hours_are_those_of_all_commands_that_made_a_run(make_run: MakeRun) -> None:
    """The manifest has the seconds of the last command, which may have continued a run of hours."""
    run = with_stages(some_runs(make_run)[0])
    timing = read_timing(run).assign(seconds=2400.0)
    assert run.manifest.seconds == 1.0
    assert spent([replace(run, timing=timing)], {})["hours"].tolist() == ["2.00", "2.00"]
    slow = run.manifest.model_copy(update={"seconds": 10_800.0})
    assert spent([replace(run, timing=timing, manifest=slow)], {})["hours"].tolist() == ["3.00", "3.00"]
