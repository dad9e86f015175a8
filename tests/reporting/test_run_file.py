"""Files of runs: they give the rows of the runs, stay small, and are refused after any edit."""

import base64
import json
import random
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from satbench.core.errors import BadInput
from satbench.reporting.pictures import Picture, png, small
from satbench.reporting.run_file import Entry, differences, encoded, file_name, read_entry
from satbench.reporting.summary import Row, summarise
from satbench.results.store import Run, read_timing
from satbench.results.training_log import Epoch, Validated

from .made import AA, EPS, FGSM, PGD, MakeRun, first, old_summary, picture, rows_in, trust

LOG = tuple(
    Epoch(epoch=e, lr=0.1 / (e + 1), train_loss=2.0, val=Validated(n=10, figures={"clean": 0.5, "robust": 0.1 * e}))
    for e in range(3)
)


def stored(folder: Path, entry: Entry) -> Path:
    path = folder / "entry.json"
    path.write_text(encoded(entry))
    return path


def kept(folder: Path, entry: Entry) -> Entry:
    return read_entry(stored(folder, entry))


def some_runs(make_run: MakeRun) -> list[Run]:
    both = {(a, "Linf", EPS): first(count, 40) for a, count in ((PGD, 21), (AA, 19))}
    three = {(FGSM, norm, eps): first(30, 40) for norm, eps in (("Linf", EPS), ("L2", 0.5), ("Linf", 2 * EPS))}
    shares = [i / 40 for i in range(40)]
    return [
        make_run("silu", first(35, 40), both, trust=trust("suspicious", "Square is stronger", "square")),
        make_run("relu", first(30, 40), three, violations=(1, 3), bad_gradients=(4,)),
        make_run("gelu", first(30, 40), {(PGD, "Linf", EPS): first(20, 40)}, draws=3, shares=shares),
        make_run("elu", first(50, 50), {(PGD, "Linf", EPS): first(20, 50)}, threats=[("Linf", EPS), ("L2", 0.5)]),
    ]


def test_files_give_the_rows_of_the_runs(make_run: MakeRun, tmp_path: Path) -> None:
    runs = some_runs(make_run)
    again = [kept(tmp_path, Entry(run, LOG)) for run in runs]
    assert summarise([entry.run for entry in again if entry.run]) == summarise(runs)
    for run, entry in zip(runs, again, strict=True):
        assert entry.training == LOG
        assert entry.run is not None
        assert entry.run.manifest == run.manifest
        for column in ("sample_id", "label", "broken", "forward", "backward", "stage", "violation", "bad_gradient"):
            assert entry.run.records[column].tolist() == run.records[column].tolist()
        columns = ["attack", "stage", "norm", "eps"]
        pd.testing.assert_frame_equal(
            read_timing(entry.run)[columns].reset_index(drop=True), read_timing(run)[columns], check_dtype=False
        )


def test_a_file_of_counts_gives_the_rows_in_any_order(make_run: MakeRun, tmp_path: Path) -> None:
    rows = summarise(some_runs(make_run))
    text = encoded(Entry(rows=tuple(rows)))
    random.Random(0).shuffle(rows)
    assert encoded(Entry(rows=tuple(rows))) == text
    stored(tmp_path, Entry(rows=tuple(rows)))
    assert rows_in(tmp_path) == summarise(some_runs(make_run))


def test_runs_on_changed_images_are_not_joined(make_run: MakeRun, tmp_path: Path) -> None:
    """The hash of each of 40 images is shortened to 16 bits, which all agree by chance at most once in 2^16."""
    runs = [
        make_run("silu", first(35, 40), {(attack, "Linf", EPS): first(20, 40)}, hashed=name)
        for attack, name in ((PGD, "a"), (AA, "b"))
    ]
    with pytest.raises(BadInput, match="shows different images in two runs"):
        summarise([entry.run for entry in (kept(tmp_path, Entry(run)) for run in runs) if entry.run])


def test_a_run_of_a_thousand_images_takes_less_than_40_kb(make_run: MakeRun, tmp_path: Path) -> None:
    """Five radii of PGD and AutoAttack at one, with outcomes as irregular as coins, and a log of 100 epochs."""
    source = random.Random(0)
    steps = [(PGD, "Linf", k / 255) for k in range(1, 6)] + [(AA, "Linf", 4 / 255)]
    run = make_run("silu", first(1000, 1000), {step: [source.random() < 0.5 for _ in range(1000)] for step in steps})
    log = tuple(LOG[0].model_copy(update={"epoch": e, "train_loss": source.random()}) for e in range(100))
    assert stored(tmp_path, Entry(run, log)).stat().st_size < 40_000


@pytest.mark.parametrize(("side", "limit"), [(8, 4_000), (32, 40_000), (224, 80_000)])
def test_examples_come_back_and_stay_small(side: int, limit: int, make_run: MakeRun, tmp_path: Path) -> None:
    """A pixel of RGB noise takes four characters and a PNG 100 more: 3 x 3 pictures of 8, 32 and 45 pixels a side."""
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    bare = stored(tmp_path, Entry(run)).stat().st_size
    examples = tuple(small(picture(side, 3, seed)) for seed in range(3))
    entry = Entry(run, examples=examples)
    assert stored(tmp_path, entry).stat().st_size - bare < limit
    assert kept(tmp_path, entry).examples == examples
    step = 5 if side == 224 else 1
    for seed, one in enumerate(examples):
        assert one.step == step
        shown = np.asarray(Image.open(BytesIO(base64.b64decode(one.attacked))))
        assert np.array_equal(shown, picture(side, 3, seed).attacked[::step, ::step])
    names = "label", "clean", "predicted", "attack", "sample", "largest"
    assert [getattr(examples[0], name) for name in names] == [getattr(picture(side), name) for name in names]


def test_a_perturbation_is_shown_on_grey() -> None:
    delta = np.array([[[-127], [0], [127]]], dtype=np.int8)
    grey = np.zeros_like(delta, dtype=np.uint8)
    one = small(Picture("net", "a", "0", "x", "x", "y", 0.5, grey, delta, grey))
    assert np.asarray(Image.open(BytesIO(base64.b64decode(one.perturbation)))).tolist() == [[0, 127, 255]]


@pytest.mark.parametrize(
    "text",
    [
        "data:image/png;base64,AAAA",
        base64.b64encode(b"<svg/>").decode(),
        base64.b64encode(png(np.zeros((8, 49, 3), np.uint8))).decode(),
        base64.b64encode(png(np.zeros((8, 8, 3), np.uint8)) + bytes(10_000)).decode(),
    ],
)
def test_only_small_png_files_are_pictures(text: str, make_run: MakeRun, tmp_path: Path) -> None:
    """The digest of the file is that of its content, so that only the pictures can be refused."""
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    entry = Entry(run, examples=(small(picture(8)).model_copy(update={"image": text}),))
    with pytest.raises(BadInput, match=r"field 'examples\.0\.image': "):
        kept(tmp_path, entry)


def test_names_come_from_the_content(make_run: MakeRun) -> None:
    outcomes = {(PGD, "Linf", 4 / 255): first(2, 4), (PGD, "Linf", EPS): first(1, 4)}
    run = make_run("silu", first(3, 4), outcomes, seed=7)
    name = file_name(Entry(run))
    assert name == f"digits-cnn-silu-digits-Linf-4-255-to-8-255-seed7-{run.manifest.seal[:12]}.json"
    own = make_run(None, first(3, 4), {(PGD, "L2", 0.5): first(2, 4)}, seed=None, recipe=None, label="my net/v2")
    assert file_name(Entry(own)).startswith("my-net-v2-digits-L2-0.5-")
    rows = tuple(summarise([run]))
    assert file_name(Entry(rows=rows)) == file_name(Entry(rows=rows))
    assert file_name(Entry(rows=rows)) != file_name(Entry(rows=rows[:1]))


def test_a_file_is_compared_with_its_run(make_run: MakeRun, tmp_path: Path) -> None:
    run = some_runs(make_run)[1]
    entry = kept(tmp_path, Entry(run, LOG))
    assert differences(entry, run) == []
    other = make_run("relu", first(30, 40), {(PGD, "Linf", EPS): first(20, 40)})
    assert "its manifest is of another run" in differences(entry, other)[0]
    assert entry.run is not None
    changed = run.records.assign(broken=~run.records["broken"])
    (found,) = differences(entry, Run(run.path, run.manifest, changed, timing=read_timing(run)))[:1]
    assert "differs in" in found
    assert differences(Entry(rows=tuple(summarise([run]))), run) == ["it holds counts alone, and no records to compare"]


def leaves(value: object, place: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The places of everything in JSON that is no object or list."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(inner, (*place, key))
    else:
        yield place


def other(value: object) -> object:
    """Another value of the same type, as an editor would make it."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}1" if isinstance(value, str) else "1"


@pytest.mark.parametrize("kind", ["run", "counts"])
def test_no_edit_of_a_file_is_accepted(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, trust=trust("pass"))
    whole_run = Entry(run, LOG, (small(picture(8)),))
    path = stored(tmp_path, whole_run if kind == "run" else Entry(rows=tuple(summarise([run]))))
    whole = path.read_text()
    places = list(leaves(json.loads(whole)))
    assert len(places) > 60
    for place in places:
        raw = json.loads(whole)
        inner = raw
        for key in place[:-1]:
            inner = inner[key]
        inner[place[-1]] = other(inner[place[-1]])
        path.write_text(json.dumps(raw))
        with pytest.raises(BadInput) as refused:
            read_entry(path)
        assert "\n" not in str(refused.value)
    path.write_text(json.dumps(json.loads(whole), indent=4))
    read_entry(path)


@pytest.mark.parametrize("kind", ["run", "counts"])
def test_an_edit_that_fits_the_schema_is_found_by_the_digest(kind: str, make_run: MakeRun, tmp_path: Path) -> None:
    runs = [make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(count, 4)}) for count in (1, 2)]
    entries = [Entry(run) if kind == "run" else Entry(rows=tuple(summarise([run]))) for run in runs]
    honest, better = (json.loads(encoded(one)) for one in entries)
    part = "records" if kind == "run" else "rows"
    path = tmp_path / "s.json"
    for raw in (honest | {part: better[part]}, {key: value for key, value in honest.items() if key != "digest"}):
        path.write_text(json.dumps(raw))
        with pytest.raises(BadInput, match=r"s\.json does not match its digest: it was changed"):
            read_entry(path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("n", "4", "row 1, field 'n'"),
        ("n", True, "row 1, field 'n'"),
        ("robust", 5, "row 1: "),
        ("eps", -1, "row 1, field 'eps'"),
        ("extra", 1, "row 1, field 'extra'"),
        ("seed", 0, "same as an earlier row"),
    ],
)
def test_a_bad_row_is_refused_by_place_and_field(
    make_run: MakeRun, tmp_path: Path, field: str, value: object, named: str
) -> None:
    runs = [make_run("silu", first(3, 4), {(PGD, "Linf", e): first(2, 4)}, digest="d") for e in (EPS, 2 * EPS)]
    path = stored(tmp_path, Entry(rows=tuple(summarise(runs))))
    raw = json.loads(path.read_text())
    raw["rows"][1][field] = value
    if field == "seed":
        raw["rows"][1] = raw["rows"][0]
    path.write_text(json.dumps(raw))
    with pytest.raises(BadInput, match=named) as caught:
        read_entry(path)
    assert "entry.json" in str(caught.value)


def test_damaged_missing_and_other_files_are_refused(make_run: MakeRun, tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    with pytest.raises(BadInput, match="missing or damaged"):
        read_entry(path)
    rows: list[Row] = summarise([make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})])
    for text, expected in (
        ("{", "damaged"),
        ("[]", "schema version None"),
        ('{"schema_version": 9, "rows": []}', "schema version 9, this satbench reads 5"),
        (json.dumps(old_summary(rows)), "schema version 4"),
        ("[" * 100_000, "damaged"),
        ("9" * 10_000, "damaged"),
    ):
        path.write_text(text)
        with pytest.raises(BadInput, match=expected):
            read_entry(path)


@pytest.mark.parametrize(
    ("ref", "said"),
    [("/home/me/study/job-1/training", "job-1/training"), ("digits-silu", "digits-silu"), ("runs/a", "runs/a")],
)
def test_a_file_does_not_say_where_a_machine_keeps_its_networks(make_run: MakeRun, ref: str, said: str) -> None:
    run = make_run("relu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})
    model = run.manifest.model.model_copy(update={"ref": ref})
    run = replace(run, manifest=run.manifest.model_copy(update={"model": model}))
    assert json.loads(encoded(Entry(run)))["manifest"]["model"]["ref"] == said
    assert "/home/me" not in encoded(Entry(run))
