"""`satbench probe`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.data import Images
    from satbench.zoo import Loaded

USUAL = 256  # images


def command(
    model: Annotated[list[str], typer.Argument(help=options.NETWORK + " Others are compared with the first.")],
    dataset: options.Dataset = None,
    split: options.Split = None,
    image_size: options.ImageSize = None,
    loader: options.Loader = None,
    data_dir: options.DataDir = None,
    n: Annotated[int | None, typer.Option("--n", help=f"The first N images of the split. Default: {USUAL}.")] = None,
    to: Annotated[
        list[str] | None, typer.Option(metavar="DATASET", help="Measure linear transfer to it. May be repeated.")
    ] = None,
    invert: Annotated[
        int, typer.Option(help="The first images that are inverted, by 300 passes each; 0 for none.")
    ] = 8,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    threads: options.Threads = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the page; default reports/probe/<model>-<...>.")] = None,
) -> None:
    """Measure the information that networks keep: Fisher information, Jacobian, linear transfer and inversion."""
    import hashlib

    from satbench.cli.progress import announce, progress_bar
    from satbench.core.devices import check_device
    from satbench.specs.names import check_model

    check_device(device)
    for ref in model:
        check_model(ref)
    announce(f"probe {', '.join(model)}: time left follows")

    from satbench.core.errors import BadInput
    from satbench.core.names import path_part
    from satbench.core.parameters import Count, Index, check
    from satbench.evaluation import data_info
    from satbench.evaluation.batch import usual_batch_size, usual_threads
    from satbench.evaluation.sources import identified
    from satbench.numerics.device import resolve_device, using_threads
    from satbench.probe import LABELS, VECTORS, check_network, check_represents, originals, pixel_transfer, probe
    from satbench.reporting.probe_page import Setting, check_probe_folder, write_probe
    from satbench.reporting.probe_tables import side_by_side, transfer_table
    from satbench.reporting.table_forms import markdown_table
    from satbench.zoo import load

    check("--batch-size", batch_size, Count | None)
    check("--threads", threads, Count | None)
    check("--invert", invert, Index)
    if out is not None:
        check_probe_folder(out)
    networks = []
    for ref in model:
        with progress_bar(f"fetch {ref}") as report:
            networks.append(identified(load(ref, None, device, report)))
        if networks[-1].note:
            echo(networks[-1].note)
    same = {one.info.short: one.info.reference for one in networks}
    if len(same) < len(networks):
        raise BadInput("two of the networks have the same weights; name each network once")
    name = path_part(networks[0].info.label)
    folder = out or Path("reports", "probe", f"{name}-{hashlib.sha256(' '.join(same).encode()).hexdigest()[:8]}")
    check_probe_folder(folder)
    images = _shared_images(networks, dataset, split, image_size, data_dir, loader)
    images = images.head(min(USUAL, len(images)) if n is None else n)
    targets = {name: _target(name, images.shape[-1], data_dir) for name in to or ()}
    asked = [(check_network, images), *((check_represents, train) for train, _ in targets.values())]
    for loaded in networks:
        for check_on, shown in asked:
            try:
                check_on(loaded.model, shown)
            except BadInput as error:
                raise BadInput(f"{loaded.info.reference} on {shown.name}: {error}") from None
    place = resolve_device(device)
    probed = []
    for loaded in networks:
        batch = batch_size or usual_batch_size(loaded.model, images.shape, place)
        counts = threads or usual_threads(loaded.model, images.shape, place)
        with using_threads(counts), progress_bar(f"probe {loaded.info.label}") as report:
            probed.append(probe(loaded.model, loaded.info, images, targets, seed, invert, batch, report))
    setting = Setting(
        data=data_info(images, images.digest),
        seed=seed,
        vectors=VECTORS,
        labels=LABELS,
        targets={name: tuple(data_info(part, part.digest) for part in parts) for name, parts in targets.items()},
        pixels={name: pixel_transfer(*parts) for name, parts in targets.items()},
        originals=originals(images.head(min(max(invert, 1), len(images)))),
        inverted=min(invert, len(images)),
    )
    echo(markdown_table(side_by_side(probed)))
    if targets:
        echo(markdown_table(transfer_table(probed, setting.pixels)))
    for path in write_probe(folder, probed, setting):
        echo(f"{path}")


def _target(name: str, size: int, data_dir: Path | None) -> tuple["Images", "Images"]:
    """The training and test images of a target data set at the side of the other images."""
    from satbench.core.errors import BadInput
    from satbench.data import load_images

    try:
        return load_images(name, "train", size, data_dir), load_images(name, "test", size, data_dir)
    except BadInput as error:
        raise BadInput(f"--to {name}: {error}") from None


def _shared_images(
    networks: list["Loaded"],
    dataset: str | None,
    split: str | None,
    image_size: int | None,
    data_dir: Path | None,
    loader: str | None,
) -> "Images":
    """The images that all networks are measured on."""
    from satbench.core.errors import BadInput
    from satbench.evaluation import images_for

    each = [images_for(loaded, dataset, split, image_size, data_dir, loader) for loaded in networks]
    said = [f"{one.name}/{one.split} at {one.shape[-1]} pixels" for one in each]
    for loaded, images, own in zip(networks, each, said, strict=True):
        if own != said[0] or images.ids != each[0].ids or images.loader != each[0].loader:
            raise BadInput(
                f"{networks[0].info.reference} is measured on {said[0]}, {loaded.info.reference} on {own}, each as it "
                "was trained; give --dataset, --split, --image-size and --loader for all"
            )
    return each[0]
