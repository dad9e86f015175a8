"""What `satbench probe` measured, as one self-contained page and as files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from satbench.core.files import atomic_file, check_output_folder, to_json, write_text
from satbench.reporting.pictures import png, png_address
from satbench.reporting.probe_tables import (
    QUANTITIES,
    by_line,
    figures,
    layer_table,
    names_of,
    network_table,
    side_by_side,
    transfer_table,
)
from satbench.reporting.render import check_page_folder, render
from satbench.reporting.table_forms import MISSING
from satbench.results.probed import Probed
from satbench.results.schema import DataInfo

PROBE_FILE = "probe.json"
SEEDS_NOTE = (
    "A model with several seeds shows the mean of its networks and Student's t interval over them, of the logarithm of "
    "the mean, since no figure is negative; a model of one network the interval over images (Hall 1992, for skewed "
    "figures, cut at 0), which says nothing about training it again. "
    "Accuracies have Wilson intervals over images."
)
AGAINST_NOTE = (
    "A comparison is the ratio (×) or the difference of two means: over seeds, by the delta method with Welch's "
    "degrees of freedom, or of two single networks over the images that both saw. It is left out (-) where one model "
    "has seeds and the other has not."
)
CLAIM_NOTE = (
    "A smaller Fisher information about the image or a smaller Jacobian is what adversarial training is expected to "
    "bring (Terzi et al. 2021, arXiv 2007.11259; layers, sample counts and steps are satbench's own). No such claim is "
    "made of the weight Fisher: a network that is less confident has a larger one."
)


@dataclass(frozen=True)
class Setting:
    """What all networks of a page were measured on.

    targets: of each target data set the training and the test images. pixels: which test images a linear readout of
    the pixels themselves classifies correctly. originals: the pictures that were inverted, uint8 (k, H, W, C).
    labels: how the expectation over labels was taken.
    """

    data: DataInfo
    seed: int
    vectors: int
    labels: str
    targets: Mapping[str, tuple[DataInfo, ...]]
    pixels: Mapping[str, np.ndarray]
    originals: np.ndarray
    inverted: int


def check_probe_folder(folder: Path) -> None:
    """Raise `BadInput` for an output folder that is neither new nor that of such a page."""
    check_output_folder(folder, PROBE_FILE)
    check_page_folder(folder)


def write_probe(folder: Path, networks: Sequence[Probed], setting: Setting) -> tuple[Path, ...]:
    """Write `probe.json`, `index.html` and the records behind them into `folder`; returns the paths.

    `images.parquet` has a row a network and image, `transfer.parquet` one a network and test image of a target. The
    first network's model is the one that others are compared with. Equal measurements give equal bytes.
    """
    page = _page(networks, setting)
    tables = {"images.parquet": "images"} | ({"transfer.parquet": "transfer"} if setting.targets else {})
    written = []
    for name, table in tables.items():
        parts = [getattr(one, table).assign(model=one.model.label, digest=one.model.digest) for one in networks]
        with atomic_file(folder / name) as temporary:
            pd.concat(parts, ignore_index=True).to_parquet(temporary, index=False)
        written.append(folder / name)
    stored = {
        "schema_version": 1,
        "networks": [{"width": one.width, **one.model.model_dump(mode="json", exclude_none=True)} for one in networks],
        "data": setting.data.model_dump(mode="json"),
        "targets": {name: [one.model_dump(mode="json") for one in pair] for name, pair in setting.targets.items()},
        "seed": setting.seed,
        "vectors": setting.vectors,
        "labels": setting.labels,
        "inverted": setting.inverted,
        "figures": figures(networks, setting.pixels),
    }
    write_text(folder / PROBE_FILE, to_json(stored))
    write_text(folder / "index.html", page)
    return (folder / PROBE_FILE, *written, folder / "index.html")


def _page(networks: Sequence[Probed], setting: Setting) -> str:
    names = names_of(networks)
    groups, data = by_line(networks), setting.data
    pictures = [("images", setting.originals), *zip(names, (one.reconstructions for one in networks), strict=True)]
    pictures = pictures if setting.inverted else []
    return render(
        "probe.html.j2",
        title=f"Information that networks keep, on {data.name}/{data.split}",
        n=data.n,
        inverted=setting.inverted,
        compared=side_by_side(networks),
        each=network_table(networks),
        layers=layer_table(networks),
        transfer=transfer_table(networks, setting.pixels),
        pictures=[(name, [png_address(png(one)) for one in shown]) for name, shown in pictures],
        notes=(SEEDS_NOTE, AGAINST_NOTE, CLAIM_NOTE),
        meanings=[(one.label, one.meaning) for one in QUANTITIES.values()],
        numbers=("n",),
        measured=[
            ("Models", [f"{name}: {len(group)} network{'s' * (len(group) != 1)}" for name, group in groups.items()]),
            (
                "Networks",
                [
                    f"{name}: {one.model.reference}, {one.model.digest}"
                    for name, one in zip(names, networks, strict=True)
                ],
            ),
            ("Images", [_described(data)]),
            ("Inverted", [f"the first {setting.inverted} of them" if setting.inverted else "none"]),
            ("Target data sets", [_target(name, *parts) for name, parts in setting.targets.items()] or ["none"]),
            ("Representation", ["the input of the last linear layer, of width " + _widths(networks)]),
            ("Labels", [setting.labels]),
            ("Random vectors of a Jacobian", [f"{setting.vectors} an image, of random signs (Hutchinson 1990)"]),
            ("Seed", [str(setting.seed)]),
        ],
    )


def _described(data: DataInfo) -> str:
    loader = f", loader {data.loader}" if data.loader else ""
    return f"{data.name}/{data.split}: {data.n} images, digest {data.digest or MISSING}{loader}"


def _target(name: str, train: DataInfo, test: DataInfo) -> str:
    return f"{name}: trained on {_described(train)}; tested on {_described(test)}"


def _widths(networks: Sequence[Probed]) -> str:
    return ", ".join(map(str, sorted({one.width for one in networks})))
