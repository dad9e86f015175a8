"""Extra images in every batch: which, how many, what refuses them, and where they are named afterwards."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tiny_training import CLASSES, rows, tiny, write_rows
from torch import Tensor
from typer.testing import CliRunner

from satbench import evaluate, train
from satbench.cli import app
from satbench.core.errors import BadInput
from satbench.core.extra import ExtraData
from satbench.data import load_images, training_splits
from satbench.data.images import ImageSet, image_set
from satbench.models.weights import Provenance, read_header
from satbench.reporting.leaderboard import build
from satbench.reporting.run_file import Entry, encoded, read_entry
from satbench.reporting.summary import summarise
from satbench.reporting.table_forms import to_csv, to_markdown
from satbench.reporting.tables import accuracy_table
from satbench.results.store import read_run
from satbench.training.dry_run import described, dry_run
from satbench.training.extra import Extra
from satbench.training.feed import Batch, Feed
from satbench.training.state import STATE
from satbench.zoo import load

SEED = 3


def images(n: int, seed: int = 0) -> ImageSet:
    pixels = np.random.default_rng(seed).integers(0, 256, (n, 1, 8, 8), dtype=np.uint8)
    return image_set("noise", "train", pixels, np.arange(n) % 3, [f"{seed}-{i:03d}" for i in range(n)])


ORIGINAL, GENERATED = images(50), images(40, seed=1)


def feed(fraction: float = 0.7, extra: ImageSet = GENERATED, **options: object) -> Feed:
    return Feed(ORIGINAL, 10, SEED, extra=Extra(extra, fraction), **options)  # type: ignore[arg-type]


def extras(batch: Batch) -> int:
    return int((batch.batch_rows >= len(ORIGINAL)).sum())


# the feed


@pytest.mark.parametrize(("fraction", "each"), [(0.7, 7), (0.25, 2), (0.06, 1), (0.94, 9)])
def test_every_batch_has_the_stated_share(fraction: float, each: int) -> None:
    """An epoch keeps its updates and images: extra ones replace original ones."""
    batches = list(feed(fraction).epoch(0))
    assert [len(batch.x) for batch in batches] == [10] * 5
    assert [extras(batch) for batch in batches] == [each] * 5
    pixels, labels = torch.cat([ORIGINAL.x, GENERATED.x]), torch.cat([ORIGINAL.y, GENERATED.y])
    for batch in batches:
        assert torch.equal(batch.x, pixels[batch.rows])
        assert torch.equal(batch.y, labels[batch.rows])


@pytest.mark.parametrize(("fraction", "made"), [(0.01, 0), (0.96, 10)])
def test_a_share_without_images_of_both_kinds_is_refused(fraction: float, made: int) -> None:
    hint = f"={fraction} makes {made} of the 10 images of a batch extra ones; give a share from 0.1 to 0.9"
    with pytest.raises(BadInput, match=re.escape(hint)):
        feed(fraction)


def test_no_image_comes_twice_until_all_have_come() -> None:
    """35 of 40 extra images an epoch come once each, others in the next; of 12, each comes twice or three times."""
    rows_of = [torch.cat([batch.rows for batch in feed().epoch(epoch)]) for epoch in (0, 1)]
    for found in rows_of:
        assert len(set(found.tolist())) == len(found) == 50
    assert set(rows_of[0].tolist()) != set(rows_of[1].tolist())
    few = images(12, seed=1)
    batches = list(feed(extra=few).epoch(0))
    counts = torch.cat([batch.rows for batch in batches]).bincount(minlength=62)[50:]
    assert sorted(counts.tolist()) == [2] + [3] * 11
    assert all(len(set(batch.rows.tolist())) == 10 for batch in batches)


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.x, b.x) and torch.equal(a.y, b.y) and torch.equal(a.rows, b.rows)
        for a, b in zip(one, other, strict=True)
    )


def test_neither_resuming_residence_nor_processes_change_a_batch() -> None:
    alone = list(feed(augment="crop-flip").epoch(1))
    assert same(alone[2:], list(feed(augment="crop-flip").epoch(1, 2)))
    assert same(alone, list(feed(augment="crop-flip", resident=True).epoch(1)))
    shares = [list(feed(augment="crop-flip", rank=rank, count=2).epoch(1)) for rank in (0, 1)]
    for whole, *parts in zip(alone, *shares, strict=True):
        assert torch.equal(whole.x, torch.cat([part.x for part in parts]))
        assert torch.equal(whole.rows, torch.cat([part.rows for part in parts]))
    assert any(extras(b) > 0 and (b.rows >= 50).any() and (b.rows < 50).any() for share in shares for b in share)


def test_images_in_files_and_in_memory_are_mixed(tmp_path: Path) -> None:
    for label in "abc":
        (tmp_path / label).mkdir()
        for i in range(5):
            pixels = np.random.default_rng(i).integers(0, 256, (9, 9), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / label / f"{i}.png")
    in_files, _ = training_splits(f"image_folder:{tmp_path}", 8, val="none", in_files=True)
    assert not isinstance(in_files, ImageSet)
    (batch,) = list(Feed(in_files, 16, SEED, extra=Extra(GENERATED, 0.5)).epoch(0))
    n = len(in_files)
    for x, row in zip(batch.x, batch.rows.tolist(), strict=True):
        wanted = GENERATED.x[row - n] if row >= n else torch.tensor(in_files.pixels(row)).float() / 255
        assert torch.equal(x, wanted)
    with pytest.raises(BadInput, match=r"image_folder:.* cannot stay on the device"):
        Feed(in_files, 16, SEED, resident=True, extra=Extra(GENERATED, 0.5))


# trainings


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.npz to train on, generated.npz of other images."""
    found = tmp_path_factory.mktemp("data")
    write_rows(found / "rows.npz")
    x, y = rows(seed=5)
    np.savez(found / "generated.npz", x=x, y=y)
    return found


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    config = tiny(f"npz:{folder / 'rows.npz'}", epochs=1, **extra(folder))
    return train(config, folder / "trained", "cpu").folder


def extra(folder: Path, **changes: object) -> dict[str, object]:
    return {"data.extra": f"npz:{folder / 'generated.npz'}", "data.extra_fraction": 0.5, **changes}


def origin(run: Path) -> Provenance:
    found = read_header(run / "last.safetensors")[1]
    assert isinstance(found, Provenance)
    return found


def test_the_table_of_labels_has_rows_for_both_kinds(folder: Path) -> None:
    """Every image of the mixture that came has a row, which sums to 1; the others have none yet."""
    config = tiny(
        f"npz:{folder / 'rows.npz'}",
        **extra(folder, **{"method": "sglr", "method.steps": 1, "method.start_epoch": 0, "epochs": 1}),
    )
    run = train(config, folder / "sglr", "cpu")
    table: Tensor = load_file(run.folder / STATE)["method.soft labels"]
    assert table.shape == (72 + 120, CLASSES)
    sums = table.sum(1)
    assert ((sums - 1).abs() < 1e-5).sum() == 72
    assert (sums == 0).sum() == 120
    assert ((sums[72:] - 1).abs() < 1e-5).sum() == 36


def test_digests_follow_pixels_and_share_and_stay_without(folder: Path, trained: Path) -> None:
    config = tiny(f"npz:{folder / 'rows.npz'}", epochs=1, **extra(folder))
    plain = tiny(f"npz:{folder / 'rows.npz'}", epochs=1)
    said = origin(trained)
    generated = load_images(f"npz:{folder / 'generated.npz'}")
    assert said.extra == ExtraData(name="npz:generated.npz", fraction=0.5, digest=generated.digest)
    assert said.config == config.digest(said.train_digest, generated.digest)
    assert said.family == config.family(said.train_digest, generated.digest)
    others = [
        config.digest(said.train_digest, "sha256:other"),
        config.with_values({"data.extra_fraction": 0.4}).digest(said.train_digest, generated.digest),
        plain.digest(said.train_digest),
    ]
    assert len({said.config, *others}) == 4
    raw = plain.model_dump()
    del raw["data"]["extra"], raw["data"]["extra_fraction"]
    assert type(plain).model_validate(raw).digest("a") == plain.digest("a")


def test_a_run_is_bound_to_its_extra_images(folder: Path, tmp_path: Path) -> None:
    x, y = rows(seed=6)
    np.savez(tmp_path / "generated.npz", x=x, y=y)
    config = tiny(f"npz:{folder / 'rows.npz'}", epochs=1, **extra(tmp_path))
    train(config, tmp_path / "run", "cpu")
    assert train(config, tmp_path / "run", "cpu").was_finished
    np.savez(tmp_path / "generated.npz", x=x[::-1], y=y)
    with pytest.raises(BadInput, match="other images"):
        train(config, tmp_path / "run", "cpu")


def test_a_budget_and_a_dry_run_count_the_images_of_an_epoch(folder: Path) -> None:
    name = f"npz:{folder / 'rows.npz'}"
    with_extra = tiny(name, **extra(folder), **{"budget.passes": 30})
    assert with_extra.epochs == tiny(name, **{"budget.passes": 30}).epochs == 5
    found = dry_run(with_extra, "cpu")
    assert (found.images, found.images_an_epoch) == (72, 72)
    said = "\n".join(described(with_extra, found))
    assert "extra data: 50% npz:generated.npz of 120 images, in every batch" in said
    fewer = dry_run(tiny(name, **extra(folder), **{"data.train_n": 32}), "cpu")
    assert (fewer.images, fewer.images_an_epoch) == (32, 32)


def test_a_run_with_extra_images_begins_with_given_weights(folder: Path, trained: Path, tmp_path: Path) -> None:
    config = tiny(f"npz:{folder / 'rows.npz'}", epochs=1, init_from=str(trained), **extra(folder))
    run = train(config, tmp_path / "run", "cpu")
    assert set(json.loads((run.folder / "config.json").read_text())["data"]) == {"train", "val", "extra", "init_from"}


def save(file: Path, x: np.ndarray, y: np.ndarray) -> str:
    np.savez(file, x=x, y=y)
    return f"npz:{file}"


@pytest.mark.parametrize(
    ("change", "hint"),
    [
        ("channels", r"images are \(3, 8, 8\), and those of npz:rows.npz \(1, 8, 8\); convert them"),
        ("size", "images are 9 pixels a side, not 8"),
        ("classes", "labels go up to 3, and npz:rows.npz has 3 classes; relabel"),
        ("few", r"a batch takes 8 of the 7 images of data.extra, and none twice"),
        ("validation", "1 of its images are in the val split of npz:rows.npz, such as generated.npz/000005"),
        ("test", "1 of its images are in the test split of npz:rows.npz, such as generated.npz/000005"),
        ("missing", "no such file"),
        ("unknown", "unknown data set 'digitz'"),
    ],
)
def test_images_that_do_not_fit_are_refused(change: str, hint: str, folder: Path, tmp_path: Path) -> None:
    x, y = rows(seed=5)
    if change == "channels":
        x = x.repeat(3, axis=1)
    elif change == "size":
        x = np.pad(x, ((0, 0), (0, 0), (0, 1), (0, 1)))
    elif change == "classes":
        y[0] = 3
    elif change == "few":
        x, y = x[:7], y[:7]
    elif change in ("validation", "test"):
        x[5] = load_images(f"npz:{folder / 'rows.npz'}", "val" if change == "validation" else "test").x[0].numpy()
    name = save(tmp_path / "generated.npz", x, y)
    name = {"missing": "npz:nowhere.npz", "unknown": "digitz"}.get(change, name)
    config = tiny(f"npz:{folder / 'rows.npz'}", **{"data.extra": name, "data.extra_fraction": 0.5})
    with pytest.raises(BadInput, match=hint):
        train(config, tmp_path / "run", "cpu")
    assert not (tmp_path / "run").exists()


def test_class_folders_must_be_those_of_the_data_set(tmp_path: Path) -> None:
    for tree, labels in (("own", "abc"), ("other", "abd")):
        for i, label in enumerate(labels):
            (tmp_path / tree / label).mkdir(parents=True)
            for k in range(20):
                pixels = np.random.default_rng([i, k, len(tree)]).integers(0, 256, (8, 8), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / tree / label / f"{k}.png")
    config = tiny(f"image_folder:{tmp_path / 'own'}", image_size=8, **{"data.extra": f"image_folder:{tmp_path}/other"})
    with pytest.raises(BadInput, match="its class folders are not those of image_folder:own"):
        train(config, tmp_path / "run", "cpu")


def test_a_share_without_images_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"data.extra_fraction without data.extra"):
        train(tiny(f"npz:{folder / 'rows.npz'}", **{"data.extra_fraction": 0.5}), tmp_path / "run", "cpu")
    for share in (0, 1, "much"):
        with pytest.raises(BadInput, match="between 0 and 1"):
            tiny("digits", **{"data.extra": "digits", "data.extra_fraction": share})


def test_test_images_of_a_named_set_are_never_extra(tmp_path: Path) -> None:
    """Of digits, which has a test split of its own, the others are taken: they are its training images again."""
    with pytest.raises(BadInput, match="are in the val split of digits"):
        train(tiny("digits", **{"data.extra": "digits"}), tmp_path / "run", "cpu")
    config = tiny("digits", **{"data.extra": "digits", "data.val": "none", "epochs": 1, "data.train_n": 64})
    run = train(config, tmp_path / "run", "cpu")
    assert origin(run.folder).extra == ExtraData(
        name="digits", fraction=0.7, digest=training_splits("digits", val="none")[0].digest
    )


# where they are named


@pytest.mark.left_out
def test_cards_and_tables_name_them(folder: Path, trained: Path, tmp_path: Path) -> None:
    plain = train(tiny(f"npz:{folder / 'rows.npz'}", epochs=1), tmp_path / "plain", "cpu").folder
    data = {"dataset": f"npz:{folder / 'rows.npz'}", "split": "test"}
    runs = []
    for number, model in enumerate((trained, plain)):
        out = tmp_path / f"run-{number}"
        evaluate(str(model), out=out, attack=["pgd:steps=1"], threat=["Linf:0.1"], device="cpu", **data)
        runs.append(read_run(out))
    found = [run.manifest.model.extra_data for run in runs]
    assert [str(one) for one in found] == ["50% npz:generated.npz", "None"]
    both = summarise(runs)
    text = to_markdown(accuracy_table(both))
    assert "| extra data |" in text
    assert "| 50% npz:generated.npz |" in text
    assert "Extra data: the share of every training batch that came from another data set." in text
    assert "extra_data" in to_csv(accuracy_table(both)).splitlines()[0]
    boards = build(both)
    assert all(
        "50% npz:generated.npz" in text for name, text in boards.items() if name.endswith((".json", ".csv", ".md"))
    )
    alone = summarise(runs[1:])
    markup = {name: re.sub("<script.*?</script>", "", text, flags=re.DOTALL) for name, text in build(alone).items()}
    assert not any("extra" in text.lower() for text in markup.values())
    assert "extra" not in to_markdown(accuracy_table(alone)).lower()
    counts = tmp_path / "counts.json"
    counts.write_text(encoded(Entry(rows=tuple(both))))
    assert list(read_entry(counts).rows) == both
    assert counts.read_text().count('"extra_data"') == sum(row.extra_data is not None for row in both)


def test_a_card_of_ones_own_has_them(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    registry = tmp_path / "zoo.yaml"
    words = ["--name", "mine", "--set", "licence=MIT", "--out", str(registry)]
    made = CliRunner().invoke(app, ["models", "init-card", str(trained), *words])
    assert made.exit_code == 0, made.output
    monkeypatch.setenv("SATBENCH_ZOO", str(registry))
    said = registry.read_text()
    assert "extra_data:" in said
    assert "fraction: 0.5" in said
    assert str(load("mine").info.extra_data) == "50% npz:generated.npz"
    shown = CliRunner().invoke(app, ["models", "show", "mine"])
    assert "extra_data: 50% npz:generated.npz" in shown.output
    exported = CliRunner().invoke(app, ["models", "export", "mine", "--to", str(tmp_path / "hub")])
    assert exported.exit_code == 0, exported.output
    assert "- extra data: `50% npz:generated.npz`" in (tmp_path / "hub" / "README.md").read_text()
