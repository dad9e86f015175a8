"""Figures against SciPy and hand-counted records; files that are written whole or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from satbench.errors import BadInput
from satbench.results.metrics import WORST, Z95, clean_table, mcnemar, robust_table, wilson
from satbench.results.schema import RECORDS, SCHEMA_VERSION, DataInfo, Manifest, ModelInfo, Threat
from satbench.results.store import (
    atomic_file,
    check_output_folder,
    read_run,
    to_json,
    write_run,
    write_text,
)

MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    model=ModelInfo(ref="run", digest="sha256:0", label="net", trained_for=Threat(norm="Linf", eps=0.1)),
    data=DataInfo(name="digits", split="test", n=3, digest="sha256:1"),
    threats=[Threat(norm="Linf", eps=0.1)],
    attacks=["a", "b"],
    seed=0,
    batch_size=8,
    device="cpu",
    versions={"torch": "2.11"},
    revision=None,
    command="satbench eval",
    seconds=1.5,
    created="2025-01-01T00:00:00+00:00",
    host="here",
)


def record(
    sample: str, attack: str, broken: bool, eps: float = 0.1, norm: str = "Linf", **more: object
) -> dict[str, object]:
    row: dict[str, object] = {
        "sample_id": sample,
        "sample_hash": "h",
        "label": 1,
        "clean_prediction": 1,
        "attack": attack,
        "norm": norm,
        "eps": eps,
        "broken": broken,
        "prediction": 2 if broken else 1,
        "distance_linf": 0.1,
        "distance_l2": 0.2,
        "distance_l1": 0.3,
        "violation": "",
    }
    return {**row, **more}


def records() -> pd.DataFrame:
    """Sample s falls to a alone, t to nobody, u to both."""
    fallen = {("s", "a"), ("u", "a"), ("u", "b")}
    return pd.DataFrame([record(sample, attack, (sample, attack) in fallen) for attack in "ab" for sample in "stu"])


# intervals and tests


def test_z95_is_the_normal_quantile() -> None:
    assert pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-14) == Z95


@pytest.mark.parametrize("n", [1, 2, 7, 100, 449, 10_000])
def test_wilson_is_scipys(n: int) -> None:
    for k in sorted({0, 1, n // 3, n // 2, n - 1, n}):
        expected = binomtest(k, n).proportion_ci(confidence_level=0.95, method="wilson")
        assert wilson(k, n) == pytest.approx((expected.low, expected.high), abs=1e-12), (k, n)


@given(st.integers(1, 3000), st.data())
def test_wilson_contains_the_rate_and_mirrors(n: int, data: st.DataObject) -> None:
    k = data.draw(st.floats(0, n))
    low, high = wilson(k, n)
    assert 0 <= low <= k / n <= high <= 1
    mirrored = wilson(n - k, n)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 10), (11, 10), (1, -1)])
def test_wilson_refuses_what_is_no_rate(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="not a rate"):
        wilson(k, n)


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_exact_binomial_test_on_the_discordant_pairs(pairs: list[tuple[bool, bool]]) -> None:
    a, b = zip(*pairs, strict=True)
    only_a, only_b = pairs.count((True, False)), pairs.count((False, True))
    expected = binomtest(only_a, only_a + only_b).pvalue if only_a + only_b else 1.0
    found = mcnemar(a, b)
    assert (found.n, found.only_a, found.only_b) == (len(pairs), only_a, only_b)
    assert found.p_value == pytest.approx(expected)
    assert found.difference == pytest.approx(np.mean(a) - np.mean(b))


def test_mcnemar_by_hand() -> None:
    """Six discordant pairs, all on one side: two tails of 1/64 each."""
    assert mcnemar([True] * 6 + [False], [False] * 7).p_value == pytest.approx(2 / 64)


@pytest.mark.parametrize(("a", "b"), [([], []), ([True], [True, False])])
def test_mcnemar_refuses_unpaired_outcomes(a: list[bool], b: list[bool]) -> None:
    with pytest.raises(ValueError, match="equal, positive lengths"):
        mcnemar(a, b)


# tables of records


def test_robust_means_that_every_attack_failed_on_the_sample() -> None:
    table = robust_table(records(), "Linf", 0.1)
    assert list(table.columns) == ["a", "b", WORST]
    assert table.loc["s"].tolist() == [False, True, False]
    assert table.loc["t"].tolist() == [True, True, True]
    assert table.loc["u"].tolist() == [False, False, False]
    assert set(map(str, table.dtypes)) == {"bool"}


def test_only_records_of_the_threat_count() -> None:
    others = pd.DataFrame([record("t", "a", True, eps=0.2), record("t", "a", True, norm="L2")])
    table = robust_table(pd.concat([records(), others], ignore_index=True), "Linf", 0.1)
    assert bool(table.loc["t", WORST])
    assert not robust_table(others, "Linf", 0.2).loc["t", WORST]


def test_samples_that_missed_an_attack_are_left_out() -> None:
    half = records().query("not (sample_id == 't' and attack == 'b')")
    assert sorted(robust_table(half, "Linf", 0.1).index) == ["s", "u"]


@pytest.mark.parametrize("broken", [True, False])
def test_two_records_of_one_sample_are_refused(broken: bool) -> None:
    doubled = pd.concat([records(), pd.DataFrame([record("t", "a", broken)])], ignore_index=True)
    with pytest.raises(BadInput, match=r"sample t .*of a at Linf 0\.1"):
        robust_table(doubled, "Linf", 0.1)


def test_clean_table_counts_each_sample_once() -> None:
    frame = records()
    frame.loc[frame["sample_id"] == "u", "clean_prediction"] = 0
    assert clean_table(frame).to_dict() == {"s": True, "t": True, "u": False}


# run folders


def test_a_run_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    write_run(tmp_path / "run", MANIFEST, records())
    run = read_run(tmp_path / "run")
    assert run.manifest == MANIFEST
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["manifest.json", "records.parquet"]
    assert pq.read_schema(tmp_path / "run" / "records.parquet").equals(RECORDS)
    pd.testing.assert_frame_equal(run.records, records(), check_dtype=False, check_exact=False)


def test_equal_records_are_equal_bytes(tmp_path: Path) -> None:
    shuffled_columns = records()[RECORDS.names[::-1]]
    for name, frame in (("one", records()), ("two", shuffled_columns)):
        write_run(tmp_path / name, MANIFEST, frame)
    one, two = ((tmp_path / name / "records.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_rerun_replaces_the_run_and_keeps_other_files(tmp_path: Path) -> None:
    write_run(tmp_path, MANIFEST, records())
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, MANIFEST.model_copy(update={"seed": 5}), records().head(3))
    assert read_run(tmp_path).manifest.seed == 5
    assert len(read_run(tmp_path).records) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def change_manifest(folder: Path, **values: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def change_records(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    file = folder / "records.parquet"
    pq.write_table(change(pq.read_table(file)), file)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"no manifest\.json"),
    "truncated manifest": (lambda f: (f / "manifest.json").write_text('{"schema'), r"manifest\.json is damaged"),
    "manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is damaged"),
    "manifest is no text": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), r"manifest\.json is damaged"),
    "another schema": (lambda f: change_manifest(f, schema_version=SCHEMA_VERSION + 1), "schema version 2.*reads 1"),
    "unknown field": (lambda f: change_manifest(f, mood="good"), "'mood'"),
    "wrong type": (lambda f: change_manifest(f, seed="one"), "'seed'"),
    "no records": (lambda f: (f / "records.parquet").unlink(), r"records\.parquet is missing"),
    "truncated records": (
        lambda f: (f / "records.parquet").write_bytes((f / "records.parquet").read_bytes()[:-20]),
        r"records\.parquet is missing or damaged",
    ),
    "empty records": (lambda f: (f / "records.parquet").write_bytes(b""), r"records\.parquet is missing or damaged"),
    "extra column": (
        lambda f: change_records(f, lambda t: t.append_column("mood", pa.array(["good"] * len(t)))),
        "other columns",
    ),
    "missing column": (lambda f: change_records(f, lambda t: t.drop_columns(["broken"])), "other columns"),
    "wider column": (
        lambda f: change_records(f, lambda t: t.set_column(2, "label", t["label"].cast(pa.int64()))),
        "other columns",
    ),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_refused_by_name(case: str, tmp_path: Path) -> None:
    damage, hint = DAMAGE[case]
    write_run(tmp_path / "run", MANIFEST, records())
    damage(tmp_path / "run")
    with pytest.raises(BadInput, match=hint):
        read_run(tmp_path / "run")


def test_a_missing_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="satbench eval"):
        read_run(tmp_path / "nowhere")


def test_a_foreign_folder_or_file_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for out in (tmp_path, tmp_path / "letter.txt", tmp_path / "letter.txt" / "run"):
        with pytest.raises(BadInput, match="--out"):
            check_output_folder(out, "manifest.json")
        with pytest.raises(BadInput, match="--out"):
            write_run(out, MANIFEST, records())
    assert [file.name for file in tmp_path.iterdir()] == ["letter.txt"]


def test_empty_and_missing_folders_are_accepted(tmp_path: Path) -> None:
    check_output_folder(tmp_path, "manifest.json")
    check_output_folder(tmp_path / "a" / "b", "manifest.json")
    assert not (tmp_path / "a").exists()


# atomic files


def write_half(file: Path, error: type[BaseException]) -> None:
    with atomic_file(file) as temporary:
        temporary.write_text("half")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(error: type[BaseException], tmp_path: Path) -> None:
    file = tmp_path / "deep" / "file.txt"
    write_text(file, "old\n")
    with pytest.raises(error):
        write_half(file, error)
    assert file.read_bytes() == b"old\n"
    assert [entry.name for entry in file.parent.iterdir()] == ["file.txt"]


def test_a_reader_sees_the_old_file_until_the_new_one_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "file.txt"
    write_text(file, "old")
    with atomic_file(file) as temporary:
        temporary.write_text("new")
        assert file.read_text() == "old"
        assert temporary.parent == file.parent
    assert file.read_text() == "new"
    assert file.stat().st_mode & 0o777 == 0o644


def test_text_is_utf8_with_line_feeds(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "ε\nb\n")
    assert (tmp_path / "a").read_bytes() == b"\xce\xb5\nb\n"


def test_json_keeps_order_and_refuses_nan() -> None:
    assert to_json({"b": 1, "a": "ε"}) == '{\n  "b": 1,\n  "a": "ε"\n}\n'
    with pytest.raises(ValueError, match="JSON"):
        to_json({"a": float("nan")})
