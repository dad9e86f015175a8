"""Figures against SciPy and hand-counted records; files that are written whole or not at all."""

import hashlib
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
from scipy.optimize import minimize_scalar
from scipy.stats import binom, binomtest

from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.core.files import atomic_file, check_output_folder, to_json, write_text
from satbench.results.metrics import (
    WORST,
    Z80,
    Z95,
    Paired,
    clean_table,
    mcnemar,
    paired_interval,
    robust_table,
    samples_needed,
    wilson,
)
from satbench.results.schema import (
    EXAMPLES,
    RECORDS,
    SCHEMA_VERSION,
    TIMING,
    DataInfo,
    Finding,
    Manifest,
    ModelInfo,
    SearchInfo,
    Trust,
)
from satbench.results.store import read_examples, read_run, seal_of, write_run
from satbench.specs.attack import AttackInfo

MANIFEST = Manifest(
    schema_version=SCHEMA_VERSION,
    model=ModelInfo(ref="run", digest="sha256:0", label="net", trained_for=Threat(norm="Linf", eps=0.1)),
    data=DataInfo(name="digits", split="test", n=3, digest="sha256:1"),
    threats=[Threat(norm="Linf", eps=0.1)],
    attacks=[AttackInfo.foreign(id, "test:attack", id, {}) for id in ("a", "b")],
    seed=0,
    batch_size=8,
    search=SearchInfo(form="plain", copied=False, note="the network as it is"),
    examples=False,
    trust=None,
    notes=[],
    device="cpu",
    versions={"torch": "2.11"},
    revision=None,
    command="satbench eval",
    seconds=1.5,
    created="2025-01-01T00:00:00+00:00",
    host="here",
)
DATA = MANIFEST.data.model_dump()
TIMES = pd.DataFrame([("a", "", "Linf", 0.1, 3, 33, 30, 0.5)], columns=TIMING.names)


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
        "margin": 0.5 if broken else -0.5,
        "correct_share": float(not broken),
        "distance_linf": 0.1,
        "distance_l2": 0.2,
        "distance_l1": 0.3,
        "fell_at": 3 if broken else -1,
        "forward": 11,
        "backward": 10,
        "bad_gradient": False,
        "stage": "",
        "violation": "",
    }
    return {**row, **more}


def records() -> pd.DataFrame:
    """Sample s falls to a alone, t to nobody, u to both."""
    fallen = {("s", "a"), ("u", "a"), ("u", "b")}
    return pd.DataFrame([record(sample, attack, (sample, attack) in fallen) for attack in "ab" for sample in "stu"])


# intervals and tests


def test_the_quantiles_are_the_normal_ones() -> None:
    assert pytest.approx(NormalDist().inv_cdf(0.975), abs=1e-14) == Z95
    assert pytest.approx(NormalDist().inv_cdf(0.8), abs=1e-14) == Z80


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


def score(n: int, only_a: int, only_b: int, difference: float) -> float:
    """The score statistic of a difference of paired rates, its nuisance found by maximising the likelihood."""

    def misfit(rate_b: float) -> float:
        cells = ((only_a, rate_b + difference), (only_b, rate_b), (n - only_a - only_b, 1 - 2 * rate_b - difference))
        return -sum(count * np.log(rate) for count, rate in cells if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    rate_b = minimize_scalar(misfit, bounds=(low + 1e-12, high - 1e-12), options={"xatol": 1e-12}).x
    variance = (2 * rate_b + difference - difference**2) / n
    return float(((only_a - only_b) / n - difference) / np.sqrt(variance))


@pytest.mark.parametrize(
    ("n", "only_a", "only_b"), [(21, 1, 7), (161, 6, 16), (100, 4, 4), (450, 3, 0), (12, 0, 5), (1000, 200, 150)]
)
def test_the_paired_interval_is_where_the_likelihoods_score_reaches_its_quantile(
    n: int, only_a: int, only_b: int
) -> None:
    low, high = paired_interval(Paired(n, only_a, only_b, 1.0))
    assert score(n, only_a, only_b, low) == pytest.approx(Z95, abs=1e-3)
    assert score(n, only_a, only_b, high) == pytest.approx(-Z95, abs=1e-3)
    assert paired_interval(Paired(n, only_b, only_a, 1.0)) == pytest.approx((-high, -low), abs=1e-9)


def test_the_paired_interval_where_nothing_or_everything_is_discordant() -> None:
    """Without a discordant pair the score bound is z^2 / (n + z^2), by hand; a rate of 1 against 0 is bounded by 1."""
    bound = Z95**2 / (10 + Z95**2)
    assert paired_interval(Paired(10, 0, 0, 1.0)) == pytest.approx((-bound, bound), abs=1e-9)
    assert paired_interval(Paired(10, 10, 0, 1.0))[1] == pytest.approx(1.0)


@given(st.integers(1, 2000), st.data())
def test_the_paired_interval_holds_the_difference_and_excludes_0_with_mcnemars_score(
    n: int, data: st.DataObject
) -> None:
    only_a = data.draw(st.integers(0, n))
    only_b = data.draw(st.integers(0, n - only_a))
    low, high = paired_interval(Paired(n, only_a, only_b, 1.0))
    assert -1 <= low <= (only_a - only_b) / n <= high <= 1
    squared = (only_a - only_b) ** 2 / (only_a + only_b) if only_a + only_b else 0.0
    assert (low > 0 or high < 0) == (squared > Z95**2)


def power(n: int, difference: float, discordance: float) -> float:
    """How often the exact test rejects, summed over every number of discordant pairs."""
    pairs = np.arange(n + 1)
    most = binom.ppf(0.025, pairs, 0.5)
    most = np.where(2 * binom.cdf(most, pairs, 0.5) <= 0.05, most, most - 1)
    share = (1 + difference / discordance) / 2
    rejected = binom.cdf(most, pairs, share) + binom.sf(pairs - most - 1, pairs, share)
    return float(np.sum(binom.pmf(pairs, n, discordance) * rejected))


@pytest.mark.parametrize(
    ("difference", "discordance"), [(0.01, 0.05), (-0.02, 0.1), (0.02, 0.3), (0.05, 0.1), (0.1, 0.2), (0.3, 0.5)]
)
def test_the_samples_needed_give_the_exact_test_its_power(difference: float, discordance: float) -> None:
    n = samples_needed(difference, discordance)
    assert 0.8 <= power(n, difference, discordance) < 0.83
    assert power(int(n - 3 / abs(difference)), difference, discordance) < 0.8


@pytest.mark.parametrize(("difference", "discordance", "uncorrected"), [(0.4, 0.5, 23), (0.15, 0.45, 155)])
def test_the_samples_needed_are_published_ones_and_the_correction(
    difference: float, discordance: float, uncorrected: int
) -> None:
    """Two worked examples of Connor's formula; the correction for continuity adds about 2 / difference."""
    added = samples_needed(difference, discordance) - uncorrected
    assert 0 < added <= 2 / difference + 1


def test_the_samples_needed_by_simulation_and_by_hand() -> None:
    n, drawn = samples_needed(0.1, 0.2), np.random.default_rng(0)
    rejected = 0
    for _ in range(400):
        only_a, only_b, _ = drawn.multinomial(n, [0.15, 0.05, 0.8])
        rejected += binomtest(only_a, only_a + only_b).pvalue < 0.05
    assert 0.75 < rejected / 400 < 0.88
    assert samples_needed(1.0, 1.0) == 6  # 2 / 2^5 is more than 0.05, 2 / 2^6 is less


@pytest.mark.parametrize(("difference", "discordance"), [(0.0, 0.1), (0.2, 0.1), (-0.2, 0.1), (0.5, 1.5)])
def test_samples_needed_refuses_what_cannot_be(difference: float, discordance: float) -> None:
    with pytest.raises(ValueError, match="cannot come from"):
        samples_needed(difference, discordance)


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
    write_run(tmp_path / "run", MANIFEST, records(), TIMES)
    run = read_run(tmp_path / "run")
    assert run.manifest == MANIFEST.model_copy(update={"seal": run.manifest.seal})
    files = sorted(file.name for file in (tmp_path / "run").iterdir())
    assert files == ["manifest.json", "records.parquet", "timing.parquet"]
    assert pq.read_table(tmp_path / "run" / "timing.parquet").to_pydict() == TIMES.to_dict("list")
    assert pq.read_schema(tmp_path / "run" / "records.parquet").equals(RECORDS)
    pd.testing.assert_frame_equal(run.records, records(), check_dtype=False, check_exact=False)


def test_a_verdict_with_its_findings_is_read_back(tmp_path: Path) -> None:
    doubt = Finding(check="growing eps", outcome="suspicious", sentence="it stays at 12.0%", next_attack="square")
    trust = Trust(verdict="suspicious", depth="full", findings=[doubt], forward=30, backward=20)
    manifest = MANIFEST.model_copy(update={"trust": trust, "notes": ["a library said so"]})
    read = write_run(tmp_path, manifest, records(), TIMES).manifest
    assert (read.trust, read.notes) == (trust, manifest.notes)


def test_where_examples_lie_is_kept_on_request_alone(tmp_path: Path) -> None:
    places = pd.DataFrame([("a", "Linf", 0.1, "s", "parts/x.safetensors", 0)], columns=EXAMPLES.names[:-1])
    write_text(tmp_path / "parts" / "x.safetensors", "pixels")
    kept = write_run(tmp_path, MANIFEST.model_copy(update={"examples": True}), records(), TIMES, places)
    digest = hashlib.sha256(b"pixels").hexdigest()
    assert read_examples(kept).to_dict("list") == {**places.to_dict("list"), "example_digest": [digest]}
    run = write_run(tmp_path, MANIFEST, records(), TIMES)
    assert not (tmp_path / "examples.parquet").exists()
    with pytest.raises(BadInput, match="--save-examples"):
        read_examples(run)


def test_the_seal_covers_the_manifest_and_every_table(tmp_path: Path) -> None:
    """By its definition, computed here from the files."""
    run = write_run(tmp_path, MANIFEST, records(), TIMES)
    document = json.loads((tmp_path / "manifest.json").read_text())
    assert document.pop("seal") == run.manifest.seal
    digest = hashlib.sha256(json.dumps(document, sort_keys=True).encode())
    for name in ("records.parquet", "timing.parquet"):
        digest.update(f"\n{name} {hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}".encode())
    digest.update(b"\nexamples.parquet absent")
    assert run.manifest.seal == digest.hexdigest()


@pytest.mark.parametrize("name", ["records.parquet", "timing.parquet", "examples.parquet"])
def test_a_table_that_was_written_again_or_deleted_breaks_the_seal(name: str, tmp_path: Path) -> None:
    places = pd.DataFrame([("a", "Linf", 0.1, "s", "x.safetensors", 0)], columns=EXAMPLES.names[:-1])
    write_run(tmp_path, MANIFEST.model_copy(update={"examples": True}), records(), TIMES, places)
    pq.write_table(pq.read_table(tmp_path / name).slice(1), tmp_path / name)
    with pytest.raises(BadInput, match=r"does not match its seal: .* run the same `satbench eval` again"):
        read_run(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(BadInput, match=r"does not match its seal|missing"):
        read_run(tmp_path)


def test_equal_records_are_equal_bytes(tmp_path: Path) -> None:
    shuffled_columns = records()[RECORDS.names[::-1]]
    for name, frame in (("one", records()), ("two", shuffled_columns)):
        write_run(tmp_path / name, MANIFEST, frame, TIMES)
    one, two = ((tmp_path / name / "records.parquet").read_bytes() for name in ("one", "two"))
    assert one == two


def test_a_rerun_replaces_the_run_and_keeps_other_files(tmp_path: Path) -> None:
    write_run(tmp_path, MANIFEST, records(), TIMES)
    (tmp_path / "notes.txt").write_text("mine")
    write_run(tmp_path, MANIFEST.model_copy(update={"seed": 5}), records().head(3), TIMES)
    assert read_run(tmp_path).manifest.seed == 5
    assert len(read_run(tmp_path).records) == 3
    assert (tmp_path / "notes.txt").read_text() == "mine"


def change_manifest(folder: Path, **values: object) -> None:
    file = folder / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def seal(folder: Path) -> None:
    change_manifest(folder, seal=seal_of(folder, json.loads((folder / "manifest.json").read_text())))


def change_records(folder: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Rewrite the records, and the seal."""
    file = folder / "records.parquet"
    pq.write_table(change(pq.read_table(file)), file)
    seal(folder)


def set_cell(folder: Path, column: str, value: object) -> None:
    """Change the first record, and the seal."""

    def change(table: pa.Table) -> pa.Table:
        position = table.schema.get_field_index(column)
        values = [value, *table[column].to_pylist()[1:]]
        return table.set_column(position, RECORDS.field(column), pa.array(values, RECORDS.field(column).type))

    change_records(folder, change)


def truncate_records(folder: Path) -> None:
    file = folder / "records.parquet"
    file.write_bytes(file.read_bytes()[:-20])


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda f: (f / "manifest.json").unlink(), r"no manifest\.json"),
    "truncated manifest": (lambda f: (f / "manifest.json").write_text('{"schema'), r"manifest\.json is damaged"),
    "manifest is a list": (lambda f: (f / "manifest.json").write_text("[]"), r"manifest\.json is damaged"),
    "manifest is no text": (lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"), r"manifest\.json is damaged"),
    "another schema": (lambda f: change_manifest(f, schema_version=SCHEMA_VERSION + 1), "schema version 5.*reads 4"),
    "unknown field": (lambda f: change_manifest(f, mood="good"), "'mood'"),
    "wrong type": (lambda f: change_manifest(f, seed="one"), "'seed'"),
    "no records": (lambda f: (f / "records.parquet").unlink(), r"records\.parquet is missing"),
    "truncated records": (truncate_records, "does not match its seal"),
    "truncated records, sealed": (
        lambda f: (truncate_records(f), seal(f)),
        r"records\.parquet is missing or damaged",
    ),
    "empty records": (lambda f: (f / "records.parquet").write_bytes(b""), "does not match its seal"),
    "number of 10,000 digits": (
        lambda f: (f / "manifest.json").write_text('{"seed": ' + "9" * 10_000 + "}"),
        r"manifest\.json is damaged",
    ),
    "extra column": (
        lambda f: change_records(f, lambda t: t.append_column("mood", pa.array(["good"] * len(t)))),
        "other columns",
    ),
    "empty cells": (
        lambda f: change_records(f, lambda t: t.set_column(7, "broken", pa.array([None] * len(t), pa.bool_()))),
        "empty cells in column 'broken'",
    ),
    "edited manifest": (lambda f: change_manifest(f, seed=7), "does not match its seal"),
    "missing column": (lambda f: change_records(f, lambda t: t.drop_columns(["broken"])), "other columns"),
    "wider column": (
        lambda f: change_records(f, lambda t: t.set_column(2, "label", t["label"].cast(pa.int64()))),
        "other columns",
    ),
}


INVALID: dict[str, tuple[dict[str, object], str]] = {
    "no images": ({"data": {**DATA, "n": 0}}, "'data.n'.* a whole number from 1"),
    "images as text": ({"data": {**DATA, "n": "many"}}, "'data.n'"),
    "seed below zero": ({"seed": -1}, "'seed'.* a whole number from 0"),
    "seed of a fraction": ({"seed": 0.5}, "'seed'"),
    "no batch": ({"batch_size": 0}, "'batch_size'"),
    "no draws": ({"draws": 0}, "'draws'"),
    "no threads": ({"threads": -1}, "'threads'"),
    "endless": ({"seconds": float("inf")}, "Infinity is not a finite number"),
    "no threat": ({"threats": []}, "'threats'"),
    "a norm that is a path": ({"threats": [{"norm": "/../../X", "eps": 0.1}]}, r"'threats\.0\.norm'"),
    "radius below zero": ({"threats": [{"norm": "Linf", "eps": -0.1}]}, "negative"),
    "radius that is no number": ({"threats": [{"norm": "Linf", "eps": float("nan")}]}, "not a finite number"),
    "no attack": ({"attacks": []}, "'attacks'"),
    "seed of the network below zero": ({"model": {"ref": "", "digest": "", "label": "", "seed": -1}}, "'model.seed'"),
}


@pytest.mark.parametrize("case", INVALID)
def test_a_manifest_with_a_value_that_no_run_has_is_refused_although_it_is_sealed(case: str, tmp_path: Path) -> None:
    values, hint = INVALID[case]
    write_run(tmp_path, MANIFEST, records(), TIMES)
    change_manifest(tmp_path, **values)
    seal(tmp_path)
    with pytest.raises(BadInput, match=hint):
        read_run(tmp_path)


IMPOSSIBLE: dict[str, tuple[str, object, str]] = {
    "label": ("label", -1, "record 0 has label -1"),
    "prediction": ("prediction", -2, "prediction -2"),
    "clean prediction": ("clean_prediction", -2, "clean_prediction -2"),
    "share below zero": ("correct_share", -0.5, "correct_share -0.5"),
    "share above one": ("correct_share", 1.5, "correct_share 1.5"),
    "distance": ("distance_l2", -0.1, "distance_l2 -0.1"),
    "fell before the first pass": ("fell_at", -2, "fell_at -2"),
    "passes": ("forward", -1, "forward -1"),
    "other passes": ("backward", -1, "backward -1"),
    "attack": ("attack", "c", "does not describe the attack 'c'"),
    "norm": ("norm", "/../../X", r"does not name the threat '/\.\./\.\./X' 0.1"),
    "radius": ("eps", 0.2, "does not name the threat 'Linf' 0.2"),
    "no radius": ("eps", None, "does not name the threat 'Linf' nan"),
    "image": ("sample_id", "t", "a at Linf 0.1 has two records of t"),
}


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_a_record_with_a_value_that_no_run_has_is_refused_although_it_is_sealed(case: str, tmp_path: Path) -> None:
    column, value, hint = IMPOSSIBLE[case]
    write_run(tmp_path, MANIFEST, records(), TIMES)
    set_cell(tmp_path, column, value)
    with pytest.raises(BadInput, match=hint):
        read_run(tmp_path)


def test_records_of_more_images_than_the_manifest_says_are_refused(tmp_path: Path) -> None:
    fewer = MANIFEST.model_copy(update={"data": MANIFEST.data.model_copy(update={"n": 2})})
    with pytest.raises(BadInput, match=r"a at Linf 0\.1 has 3 records of 2 images"):
        write_run(tmp_path, fewer, records(), TIMES)


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_run_is_refused_by_name(case: str, tmp_path: Path) -> None:
    damage, hint = DAMAGE[case]
    write_run(tmp_path / "run", MANIFEST, records(), TIMES)
    damage(tmp_path / "run")
    with pytest.raises(BadInput, match=hint):
        read_run(tmp_path / "run")


def test_records_of_an_attack_that_is_not_described_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"its manifest does not describe the attack 'b' of the records"):
        write_run(tmp_path / "run", MANIFEST.model_copy(update={"attacks": MANIFEST.attacks[:1]}), records(), TIMES)


def test_a_missing_run_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="satbench eval"):
        read_run(tmp_path / "nowhere")


def test_a_foreign_folder_or_file_is_refused_and_untouched(tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    for out in (tmp_path, tmp_path / "letter.txt", tmp_path / "letter.txt" / "run"):
        with pytest.raises(BadInput, match="--out"):
            check_output_folder(out, "manifest.json")
        with pytest.raises(BadInput, match="--out"):
            write_run(out, MANIFEST, records(), TIMES)
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
