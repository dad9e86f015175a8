"""ImageNet (ILSVRC 2012) where someone has it on disk, in the layouts that people keep it in."""

import hashlib
import os
import re
import struct
import tarfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from xml.etree import ElementTree

import torch

from satbench.core.bounded import MIB, read_bounded
from satbench.core.errors import BadInput
from satbench.data.image_folder import is_picture
from satbench.data.images import FileImages, carve
from satbench.data.loaders import DEFAULT_LOADER, DEFAULT_SIZE, LOADERS, MOST_BYTES, ImageFile
from satbench.data.matlab import read_table

SUBFOLDERS = ("", "imagenet", "ILSVRC2012")
CLASSES = 1000
STATISTICS = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # as torchvision's and most networks are trained
WNID = re.compile(r"n\d{8}")

CLS_LOC = Path("ILSVRC", "Data", "CLS-LOC")
ANNOTATIONS = Path("ILSVRC", "Annotations", "CLS-LOC", "val")
SOLUTION = "LOC_val_solution.csv"

FLAT = "ILSVRC2012_img_val"
DEVKIT = "ILSVRC2012_devkit_t12"
DEVKIT_MD5 = "fa75699e90414af021442c21a62c3abf"  # of its .tar.gz, as torchvision lists it
TRUTH, META = "data/ILSVRC2012_validation_ground_truth.txt", "data/meta.mat"


def imagenet(path: Path, split: str | None, size: int | None, loader: str = DEFAULT_LOADER) -> FileImages:
    """ImageNet's "val" (the default) or "train" images, at `size` (224) pixels a side, through a loader of `LOADERS`.

    It lies in PATH, PATH/imagenet or PATH/ILSVRC2012 as one of: val/<wnid>/ (or PATH itself holding the <wnid> folders
    of one split), ILSVRC/Data/CLS-LOC/val with LOC_val_solution.csv or ILSVRC/Annotations, ILSVRC2012_img_val with
    ILSVRC2012_devkit_t12, the last two also as the .tar and .tar.gz they came in, which stay packed. Labels are 0 to
    999 in the order of the sorted WordNet ids; a sample is called <wnid>/<file> in every layout, and samples come in
    the order of those names' SHA-256. Raises `BadInput` for a missing or partial data set, naming what was found.
    """
    wanted = split or "val"
    if wanted not in ("val", "train"):
        why = "the labels of its test images are not public" if wanted == "test" else "it keeps val and train apart"
        raise BadInput(f"imagenet has no {wanted!r} split: {why}; use --split val or train")
    for root in (path / name for name in SUBFOLDERS):
        listing = _class_folders(root, wanted)
        if listing is None and wanted == "val":
            listing = _annotated(root) or _devkit(root)
        if listing is not None:
            return _images(listing, wanted, size, loader)
    raise BadInput(
        f"no ImageNet {wanted} images in {path}; give --data-dir FOLDER or set SATBENCH_DATA, where FOLDER, "
        f"FOLDER/imagenet or FOLDER/ILSVRC2012 holds {wanted}/<wnid>/*.JPEG"
        + (f", {CLS_LOC.as_posix()}/val or {FLAT} with {DEVKIT}" if wanted == "val" else "")
        + "; --dataset imagenet-sample needs no download"
    )


@dataclass(frozen=True)
class Listing:
    """The images of one split, a WordNet id each, and all WordNet ids that the split's source knows."""

    source: Path
    wnids: Sequence[str]
    images: Sequence[tuple[str, ImageFile]]


@dataclass(frozen=True)
class Member:
    """A plain file inside an uncompressed archive."""

    archive: Path
    name: str
    start: int
    size: int

    def __str__(self) -> str:
        return f"{self.archive}/{self.name}"

    def read_bytes(self) -> bytes:
        with self.archive.open("rb") as stream:
            stream.seek(self.start)
            return stream.read(self.size)


def _images(listing: Listing, split: str, size: int | None, loader: str) -> FileImages:
    wnids = sorted(set(listing.wnids))
    if len(wnids) != CLASSES:
        raise BadInput(
            f"{listing.source} has {len(wnids)} classes, expected ImageNet's {CLASSES}, or labels would not be the "
            "networks'; a data set of other classes is --dataset image_folder:PATH"
        )
    if not listing.images:
        raise BadInput(f"{listing.source} has no images; put ImageNet's there, or use --dataset imagenet-sample")
    number = {wnid: label for label, wnid in enumerate(wnids)}
    whole = FileImages(
        name="imagenet",
        split="all",
        y=torch.tensor([number[wnid] for wnid, _ in listing.images]),
        ids=tuple(f"{wnid}/{file.name}" for wnid, file in listing.images),
        num_classes=CLASSES,
        image_size=size or DEFAULT_SIZE,
        loader=loader,
        decode=LOADERS[loader],
        statistics=STATISTICS,
        files=tuple(file for _, file in listing.images),
    )
    return replace(carve(whole, "all"), split=split)


def _class_folders(root: Path, split: str) -> Listing | None:
    """One folder a class: as prepared for torchvision, or a split's folder itself."""
    for place in filter(Path.is_dir, (root / split, root / CLS_LOC / split, root)):
        folders = [entry for entry in place.iterdir() if WNID.fullmatch(entry.name) and entry.is_dir()]
        found = [(folder.name, file) for folder in folders for file in _pictures(folder)]
        training = bool(found) and found[0][1].name.startswith(found[0][0])  # n01440764/n01440764_18.JPEG
        if folders and (place != root or training == (split == "train")):
            return Listing(place, [folder.name for folder in folders], found)
    return None


def _annotated(root: Path) -> Listing | None:
    """The layout of the ILSVRC/ archive and of Kaggle: a flat folder, with labels in XML or in one CSV."""
    place = root / CLS_LOC / "val"
    if not place.is_dir():
        return None
    wnids = _solution(root / SOLUTION) if (root / SOLUTION).is_file() else _annotations(root / ANNOTATIONS)
    return _labelled(place, _pictures(place), wnids)


def _solution(file: Path) -> dict[str, str]:
    """WordNet ids by image name, from rows `image,wnid x y x y ...`."""
    text = read_bounded(file, 64 * MIB).decode("utf-8", errors="replace")
    return dict(re.findall(r"^(\w+),(n\d{8})\b", text, re.MULTILINE))


def _annotations(folder: Path) -> dict[str, str]:
    """WordNet ids by image name, from the first object of each XML file."""
    if not folder.is_dir():
        raise BadInput(f"the validation images have no labels: neither {folder} nor {SOLUTION} is there; add one")
    wnids: dict[str, str] = {}
    for file in folder.glob("[!.]*.xml"):
        try:
            name = ElementTree.fromstring(read_bounded(file, MIB)).findtext("object/name")
        except (ElementTree.ParseError, LookupError, ValueError) as error:  # the last two: an unknown encoding
            if isinstance(error, BadInput):
                raise
            name = None
        if name is None or not WNID.fullmatch(name):
            raise BadInput(f"{file} is damaged: it names no object by its WordNet id; fetch it again")
        wnids[file.stem] = name
    return wnids


def _devkit(root: Path) -> Listing | None:
    """The archives of image-net.org, unpacked or not: a flat folder, with labels in the development kit."""
    folder, archive = root / FLAT, root / f"{FLAT}.tar"
    if not folder.is_dir() and not archive.is_file():
        return None
    place, files = (folder, _pictures(folder)) if folder.is_dir() else (archive, _members(archive))
    truth, meta = (_devkit_file(root, name) for name in (TRUTH, META))
    try:
        known = dict(read_table(meta, "synsets", ("ILSVRC2012_ID", "WNID")))
        order = [known[int(line)] for line in truth.split()]
        if not all(WNID.fullmatch(wnid) for wnid in set(order)):
            raise ValueError("no WordNet id")
    except (KeyError, TypeError, ValueError, struct.error, zlib.error) as error:
        raise BadInput(f"{root / DEVKIT} is damaged ({type(error).__name__}); fetch it again") from None
    wnids = {f"ILSVRC2012_val_{number:08d}": wnid for number, wnid in enumerate(order, 1)}
    return _labelled(place, files, wnids)


def _devkit_file(root: Path, name: str) -> bytes:
    folder, archive = root / DEVKIT, root / f"{DEVKIT}.tar.gz"
    try:
        if folder.is_dir():
            return read_bounded(folder / name, 16 * MIB)
        packed = read_bounded(archive, 16 * MIB)
    except OSError as error:
        raise BadInput(
            f"the validation images of {root} have no labels: {DEVKIT} or {DEVKIT}.tar.gz with {name} is missing or "
            f"damaged ({type(error).__name__}); put it there"
        ) from None
    found = hashlib.md5(packed, usedforsecurity=False).hexdigest()
    if found != DEVKIT_MD5:
        raise BadInput(f"{archive} has MD5 {found} where {DEVKIT_MD5} was published: damaged or not it; fetch it again")
    with tarfile.open(fileobj=BytesIO(packed)) as kit:
        stream = kit.extractfile(f"{DEVKIT}/{name}")
        return stream.read() if stream else b""


def _members(archive: Path) -> list[Member]:
    found = []
    try:
        with tarfile.open(archive, "r:") as tar, archive.open("rb") as stream:
            total, end = archive.stat().st_size, 0
            for one in tar:
                if one.offset < end or one.size < 0 or one.offset_data + one.size > total or one.issparse():
                    raise tarfile.ReadError("a member is not inside of the archive")
                end = one.offset_data + one.size
                name = Path(one.name).name
                if one.isfile() and is_picture(name):
                    if one.size > MOST_BYTES:
                        raise BadInput(
                            f"{archive}/{name} has {one.size:,} bytes, more than an image has; fetch it again"
                        )
                    found.append(Member(archive, name, one.offset_data, one.size))
            stream.seek(tar.offset)  # where tarfile stopped: at a damaged header too
            if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("it does not end as a tar archive does")
    except (OSError, tarfile.TarError, ValueError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{archive} is no whole tar archive ({type(error).__name__}); fetch it again") from None
    return found


def _pictures(folder: Path) -> list[Path]:
    with os.scandir(folder) as entries:  # which knows what is a plain file without asking for each
        found = [(Path(entry.path), entry.is_file()) for entry in entries if is_picture(entry.name)]
    for file, is_plain in found:
        if not is_plain:
            raise BadInput(f"{file} is not a plain file; repair or remove it")
    return [file for file, _ in found]


def _labelled(source: Path, files: Sequence[ImageFile], wnids: Mapping[str, str]) -> Listing:
    """Join images and the WordNet ids known by their names."""
    for file in files:
        if Path(file.name).stem not in wnids:
            raise BadInput(f"{file} has no label; remove it, or complete the labels")
    return Listing(source, list(wnids.values()), [(wnids[Path(file.name).stem], file) for file in files])
