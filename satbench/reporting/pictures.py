"""Examples as a figure: the image, the perturbation, the attacked image, and the predictions on both images."""

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from satbench.core.escaping import figure_text
from satbench.reporting.examples import SIDE, Example

CELL = 1.5  # inches
COLUMNS = ("image", "perturbation", "attacked")


@dataclass(frozen=True)
class Picture:
    """One broken image; `image` and `attacked` uint8 (H, W, C), `perturbation` int8 (H, W, C).

    perturbation: in 1/127 of its largest entry by size, which is `largest` in the pixel scale of [0, 1]. label,
    clean, predicted: names of the class, of the prediction on the image, and on the attacked one.
    """

    network: str
    attack: str
    sample: str
    label: str
    clean: str
    predicted: str
    largest: float
    image: npt.NDArray[np.uint8]
    perturbation: npt.NDArray[np.int8]
    attacked: npt.NDArray[np.uint8]


def distinct(pictures: Iterable[Picture]) -> tuple[Picture, ...]:
    """One picture of each network, attack and sample."""
    return tuple({(one.network, one.attack, one.sample): one for one in pictures}.values())


def drawn(pictures: Sequence[Picture]) -> Figure:
    """A line a picture; the perturbation is shown on grey, scaled to its largest entry."""
    figure = Figure(figsize=(CELL * 4.2, (CELL + 0.45) * len(pictures) + 0.2), layout="constrained")
    for line, one in enumerate(pictures):
        shown = (one.image, on_grey(one.perturbation), one.attacked)
        said = (f"{one.clean}", f"largest: {one.largest * 255:.1f}/255", f"{one.predicted}")
        for place, (column, pixels, words) in enumerate(zip(COLUMNS, shown, said, strict=True)):
            axes = figure.add_subplot(len(pictures), 3, 3 * line + place + 1)
            axes.imshow(pixels.squeeze(), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
            axes.set_title(f"{column}\n{figure_text(words)}" if line == 0 else figure_text(words), fontsize=8)
            axes.set_xticks([])
            axes.set_yticks([])
            if place == 0:
                axes.set_ylabel(figure_text(one.network), fontsize=7)
    return figure


def caption(pictures: Sequence[Picture]) -> str:
    """What the figure shows, in one or two sentences."""
    attacks = ", ".join(dict.fromkeys(one.attack for one in pictures))
    return (
        f"Images that {attacks} broke: the image with the prediction on it, the perturbation scaled to its largest "
        "entry, and the attacked image with the prediction on it."
    )


def on_grey(perturbation: npt.NDArray[np.int8]) -> npt.NDArray[np.uint8]:
    """A perturbation in 1/127 of its largest entry as pixels, 0 in the middle grey."""
    return ((perturbation.astype(int) + 127) * 255 // 254).astype(np.uint8)


def small(one: Picture) -> Example:
    """The picture as a card of a leaderboard shows it."""
    step = -(-max(one.image.shape[:2]) // SIDE)
    image, perturbation, attacked = (
        _text(png(pixels[::step, ::step])) for pixels in (one.image, on_grey(one.perturbation), one.attacked)
    )
    return Example(
        attack=one.attack,
        sample=one.sample,
        label=one.label,
        clean=one.clean,
        predicted=one.predicted,
        largest=one.largest,
        step=step,
        image=image,
        perturbation=perturbation,
        attacked=attacked,
    )


def png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W, C) as PNG; its first channel alone where it has neither 1 nor 3."""
    buffer = BytesIO()
    Image.fromarray(picture if picture.shape[-1] == 3 else picture[..., 0]).save(buffer, "PNG")
    return buffer.getvalue()


def png_address(content: bytes) -> str:
    """A PNG file as an address that holds all of it."""
    return "data:image/png;base64," + _text(content)


def _text(content: bytes) -> str:
    return base64.b64encode(content).decode("ascii")
