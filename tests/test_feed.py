"""What a training run is fed: which images, in which order, and that nothing about the machine changes them."""

import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from satbench.core.errors import BadInput
from satbench.data import load_images
from satbench.data.images import FileImages, ImageSet, image_set
from satbench.data.loaders import LOADERS, open_rgb
from satbench.numerics.seeding import generator
from satbench.training.augment import AUGMENTATIONS, augment, random_resized_crop
from satbench.training.feed import Batch, Feed

SEED, SIDE = 3, 8


def in_memory(n: int) -> ImageSet:
    pixels = np.random.default_rng(0).integers(0, 256, (n, 3, SIDE, SIDE), dtype=np.uint8)
    return image_set("noise", "train", pixels, np.arange(n) % 5, [f"{i:03d}" for i in range(n)])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> FileImages:
    folder, generated = tmp_path_factory.mktemp("files"), np.random.default_rng(1)
    for i in range(11):
        Image.fromarray(generated.integers(0, 256, (20 + i, 30, 3), dtype=np.uint8)).save(folder / f"{i:02d}.png")
    found = tuple(sorted(folder.iterdir()))
    return FileImages(
        name="pictures",
        split="train",
        y=torch.arange(11) % 3,
        ids=tuple(file.name for file in found),
        num_classes=3,
        loader="torchvision",
        files=found,
        image_size=SIDE,
        decode=LOADERS["torchvision"],
    )


def same(one: list[Batch], other: list[Batch]) -> bool:
    return len(one) == len(other) and all(
        torch.equal(a.x, b.x)
        and torch.equal(a.y, b.y)
        and torch.equal(a.rows, b.rows)
        and torch.equal(a.batch_rows, b.batch_rows)
        and a.start == b.start
        and len(a.views) == len(b.views)
        and all(map(torch.equal, a.views, b.views))
        for a, b in zip(one, other, strict=True)
    )


# in memory


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(
    ("n", "sizes"),
    [
        (24, [8, 8, 8]),
        (25, [8, 8, 9]),
        (26, [8, 8, 8, 2]),
        (31, [8, 8, 8, 7]),
        (5, [5]),
        (1, [1]),
        (9, [9]),
        (10, [8, 2]),
    ],
)
def test_an_epoch_is_every_image_once_in_the_order_of_seed_and_epoch(n: int, sizes: list[int], resident: bool) -> None:
    images = in_memory(n)
    feed = Feed(images, 8, SEED, resident=resident)
    batches = list(feed.epoch(2))
    assert [len(batch.x) for batch in batches] == sizes
    assert feed.batches_an_epoch == len(sizes)
    assert feed.largest == (max(sizes), 3, SIDE, SIDE)
    order = torch.randperm(n, generator=generator(SEED, "order", 2))
    assert torch.equal(torch.cat([batch.rows for batch in batches]), order)
    for x, y, rows, batch_rows, start, views in batches:
        assert views == ()
        assert torch.equal(x, images.x[rows])
        assert torch.equal(y, images.y[rows])
        assert torch.equal(rows, batch_rows)
        assert start == 0


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_augmentation_draws_from_seed_and_step(augmentation: str) -> None:
    images = in_memory(20)
    for number, batch in enumerate(Feed(images, 8, SEED, augmentation).epoch(4)):
        randomness = generator(SEED, "augment", 4, "batch", number)
        assert torch.equal(batch.x, augment(augmentation, images.x[batch.rows], randomness))


def test_neither_residence_nor_resuming_changes_a_batch() -> None:
    images = in_memory(27)
    whole = list(Feed(images, 8, SEED, "crop-flip").epoch(1))
    assert same(whole, list(Feed(images, 8, SEED, "crop-flip", resident=True).epoch(1)))
    for first in range(5):
        assert same(whole[first:], list(Feed(images, 8, SEED, "crop-flip").epoch(1, first)))
    assert not same(whole, list(Feed(images, 8, SEED, "crop-flip").epoch(0)))
    assert not same(whole, list(Feed(images, 8, SEED + 1, "crop-flip").epoch(1)))


@pytest.mark.parametrize("resident", [True, False])
@pytest.mark.parametrize(("n", "size"), [(24, 3), (25, 3), (31, 3), (5, 1), (8, 1), (9, 1)])
def test_what_a_whole_batch_does_not_fill_is_left_out(n: int, size: int, resident: bool) -> None:
    images = in_memory(n)
    feed = Feed(images, 8, SEED, resident=resident, drop_last=True)
    batches = list(feed.epoch(2))
    assert feed.batches_an_epoch == size
    assert feed.largest == (min(n, 8), 3, SIDE, SIDE)
    assert [len(batch.x) for batch in batches] == [min(n, 8)] * size
    order = torch.randperm(n, generator=generator(SEED, "order", 2))
    assert torch.equal(torch.cat([batch.rows for batch in batches]), order[: size * min(n, 8)])
    assert sum(map(len, feed.clean())) == n


def test_other_images_are_left_out_in_every_epoch() -> None:
    feed = Feed(in_memory(11), 8, SEED, drop_last=True)
    left_out = [set(range(11)) - set(next(feed.epoch(epoch)).rows.tolist()) for epoch in range(12)]
    assert all(len(rows) == 3 for rows in left_out)
    assert set.union(*left_out) == set(range(11))


def together(batches: tuple[Batch, ...]) -> Batch:
    """What the processes have of one batch, put side by side."""
    assert all(torch.equal(batch.batch_rows, batches[0].batch_rows) for batch in batches)
    starts = list(itertools.accumulate((len(batch.rows) for batch in batches), initial=0))
    assert [batch.start for batch in batches] == starts[:-1]
    x, y, rows = (torch.cat([batch[i] for batch in batches]) for i in range(3))  # type: ignore[misc]
    views = tuple(torch.cat(parts) for parts in zip(*(batch.views for batch in batches), strict=True))
    return Batch(x, y, rows, batches[0].batch_rows, 0, views)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("kind", ["memory", "files"])
def test_processes_share_what_one_process_would_see(kind: str, count: int, files: FileImages) -> None:
    """The four images left over are too few for three processes, and join the batch before."""
    images, name = (in_memory(28), "crop-flip") if kind == "memory" else (files, "random-resized-crop")
    size = 8 if kind == "memory" else 7
    alone = list(Feed(images, size, SEED, name, views=3).epoch(1))
    shares = [Feed(images, size, SEED, name, rank=rank, count=count, views=3).epoch(1) for rank in range(count)]
    shared = [together(batches) for batches in zip(*shares, strict=True)]
    assert len(alone[-1].rows) == 4
    if count == 3:
        assert shared[-1].rows.tolist() == [*alone[-2].rows.tolist(), *alone[-1].rows.tolist()]
        alone, shared = alone[:-2], shared[:-1]
    assert same(alone, shared)


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_further_views_are_other_augmentations_of_the_same_images(kind: str, files: FileImages) -> None:
    """The first stays what it is without others; all are the same when an epoch is continued."""
    images, name = (in_memory(27), "crop-flip") if kind == "memory" else (files, "random-resized-crop")
    several = list(Feed(images, 8, SEED, name, views=3).epoch(1))
    assert same([batch._replace(views=()) for batch in several], list(Feed(images, 8, SEED, name).epoch(1)))
    assert same(several[1:], list(Feed(images, 8, SEED, name, views=3).epoch(1, 1)))
    for batch in several:
        seen = [batch.x, *batch.views]
        assert len(seen) == 3
        assert all(one.shape == batch.x.shape for one in seen)
        for one, other in itertools.combinations(seen, 2):
            assert (one != other).flatten(1).any(1).float().mean() > 0.8
    plain = next(iter(Feed(in_memory(27), 8, SEED, views=2).epoch(1)))
    assert torch.equal(plain.x, plain.views[0])


def test_a_process_has_two_images_of_every_batch() -> None:
    """From one alone batch norm behind a pooling layer learns nothing, and torch refuses it."""
    for n in range(8, 40):
        for rank in range(3):
            assert min(len(batch.x) for batch in Feed(in_memory(n), 8, SEED, rank=rank, count=3).epoch(0)) >= 2
    for count, n in ((5, 26), (2, 3)):
        with pytest.raises(BadInput, match=f"{count} processes share batches of {min(n, 8)} images"):
            Feed(in_memory(n), 8, SEED, count=count)


def test_batches_do_not_alias_the_data_set() -> None:
    images = in_memory(8)
    before = images.x.clone()
    for resident in (True, False):
        for batch in Feed(images, 8, SEED, resident=resident).epoch(0):
            batch.x.zero_()
    assert torch.equal(images.x, before)


def test_the_next_batch_is_made_while_one_is_used() -> None:
    """The pixels of batch 1 are asked for before batch 0 is given back."""
    asked = threading.Event()

    class Watched(Feed):
        def _batch(self, epoch: int, order: Tensor, decoders: object, step: int) -> Batch:
            if step == 1:
                asked.set()
            return super()._batch(epoch, order, decoders, step)  # type: ignore[arg-type]

    batches = Watched(in_memory(24), 8, SEED).epoch(0)
    next(batches)
    assert asked.wait(10)
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_clean_batches_are_all_images_unchanged_in_every_process(kind: str, files: FileImages) -> None:
    images, name = (in_memory(26), "crop-flip") if kind == "memory" else (files, "random-resized-crop")
    expected = list(Feed(images, 4, SEED).epoch(0))
    for rank in range(2):
        found = list(Feed(images, 4, SEED, name, rank=rank, count=2).clean())
        assert all(torch.equal(x, batch.x) for x, batch in zip(found, expected, strict=True))


# files


def test_files_are_decoded_by_their_loader(files: FileImages) -> None:
    for batch in Feed(files, 4, SEED).epoch(0):
        for x, y, row in zip(batch.x, batch.y, batch.rows.tolist(), strict=True):
            decoded = torch.from_numpy(LOADERS["torchvision"](files.files[row], SIDE))
            assert torch.equal(x, decoded.float() / 255)
            assert y == files.y[row]


def test_files_are_cropped_by_seed_epoch_and_row(files: FileImages) -> None:
    for batch in Feed(files, 4, SEED, "random-resized-crop").epoch(5):
        for x, row in zip(batch.x, batch.rows.tolist(), strict=True):
            randomness = generator(SEED, "augment", 5, row)
            cropped = random_resized_crop(open_rgb(files.files[row]), SIDE, randomness)
            assert torch.equal(x, torch.from_numpy(cropped).float() / 255)


def test_a_missing_file_is_named_in_the_batch_it_belongs_to(files: FileImages, tmp_path: Path) -> None:
    rows = torch.randperm(11, generator=generator(SEED, "order", 0)).tolist()
    gone = tmp_path / "gone.png"
    broken = FileImages(
        **{**vars(files), "files": tuple(gone if i == rows[9] else f for i, f in enumerate(files.files))}
    )
    for augmentation in ("none", "random-resized-crop"):
        batches = Feed(broken, 4, SEED, augmentation).epoch(0)
        assert [len(next(batches).x), len(next(batches).x)] == [4, 4]
        with pytest.raises(BadInput, match=r"gone\.png is not a readable image \(No such file or directory\)"):
            next(batches)


@pytest.mark.parametrize("kind", ["memory", "files"])
def test_an_abandoned_epoch_leaves_no_thread(kind: str, files: FileImages) -> None:
    before = threading.active_count()
    batches = Feed(files if kind == "files" else in_memory(30), 2, SEED).epoch(0)
    next(batches)
    assert threading.active_count() > before
    batches.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_files_have_channel_statistics(files: FileImages) -> None:
    decoded = torch.stack([torch.from_numpy(files.pixels(i)) for i in range(len(files))]).double() / 255
    mean, std = files.channel_statistics()
    assert mean == pytest.approx(decoded.mean((0, 2, 3)).tolist(), abs=1e-6)
    assert std == pytest.approx(decoded.permute(1, 0, 2, 3).flatten(1).std(1, correction=0).tolist(), abs=1e-6)


def test_imagenets_channel_statistics_are_everyones_and_need_no_pass(tmp_path: Path) -> None:
    for label in range(1000):
        file = tmp_path / "train" / f"n{label:08d}" / f"n{label:08d}_1.JPEG"
        file.parent.mkdir(parents=True)
        file.touch()
    images = load_images(f"imagenet:{tmp_path}", "train")
    assert images.channel_statistics() == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


# refusals


def test_what_cannot_be_fed_is_refused(files: FileImages) -> None:
    with pytest.raises(BadInput, match="crop-flip"):
        Feed(in_memory(8), 8, SEED, "cropflip")
    with pytest.raises(BadInput, match="noise is in memory"):
        Feed(in_memory(8), 8, SEED, "random-resized-crop")
    with pytest.raises(BadInput, match="pictures is decoded batch by batch"):
        Feed(files, 8, SEED, resident=True)


@pytest.mark.gpu
@pytest.mark.parametrize("resident", [True, False])
def test_a_gpu_is_fed_the_same_bits(resident: bool, files: FileImages) -> None:
    for images, name in ((in_memory(27), "crop-flip"), (files, "random-resized-crop")):
        if resident and images is files:
            continue
        expected = list(Feed(images, 4, SEED, name).epoch(1))
        found = list(Feed(images, 4, SEED, name, "cuda", resident).epoch(1))
        assert all(batch.x.is_cuda and batch.y.is_cuda for batch in found)
        assert same(expected, [batch._replace(x=batch.x.cpu(), y=batch.y.cpu()) for batch in found])
