"""Images that an attack broke, as the card of a leaderboard shows them: in the file of the run, as small PNG files.

Pictures are in the run's file because its digest then covers them, and a page is made from these files alone. They are
compressed once, when the run is added: another zlib gives other bytes, and pages must be equal on every machine. A page
requests nothing, so it holds its pictures, as many as it has `room` for.
"""

import base64
import io
from typing import Annotated

from PIL import Image
from pydantic import AfterValidator

from satbench.core.errors import BadInput
from satbench.core.parameters import Count, FromZero
from satbench.reporting.packed import Strict

EACH = 3  # examples of a run
SIDE = 48  # pixels of a side of a picture at most; of larger images every second, third, ... pixel is shown
MOST_TEXT = 11_000  # characters of a picture: more than base64 of 48 x 48 RGB pixels that PNG cannot compress
SIGNATURE = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"  # of every PNG file; width and height follow, in 4 bytes each
CHOICE_NOTE = (
    f"The first {EACH} examples of the run's strongest attack, by norm, then radius, then place in the data set; "
    "images that the network misclassifies without an attack are left out. A run keeps no example of an image that no "
    "attack broke. Perturbations are scaled to their largest entry; grey is no change."
)


def _small_png(text: str) -> str:
    content = base64.b64decode(text, validate=True) if len(text) <= MOST_TEXT else b""
    start = len(SIGNATURE)
    sides = [int.from_bytes(content[place : place + 4]) for place in (start, start + 4)]
    if not content.startswith(SIGNATURE) or not all(1 <= side <= SIDE for side in sides):
        raise BadInput(f"no PNG of at most {SIDE} x {SIDE} pixels in base64")
    return text


Png = Annotated[str, AfterValidator(_small_png)]


class Broken(Strict):
    """What is said of an image with an adversarial example of it.

    attack: with its threat. sample: id of the image. label, clean, predicted: names of the class, of the prediction on
    the image, and on the attacked one. largest: of the perturbation's entries by size, in the pixel scale of [0, 1].
    """

    attack: str
    sample: str
    label: str
    clean: str
    predicted: str
    largest: FromZero


class Example(Broken):
    """An image, its perturbation and the attacked image, each as PNG in base64.

    step: the pictures show every `step`-th pixel in each direction.
    """

    step: Count
    image: Png
    perturbation: Png
    attacked: Png

    def shows(self, other: "Example") -> bool:
        """Whether it says and shows what `other` does; the same pixels may be compressed to other bytes."""
        pictures = ("image", "perturbation", "attacked")
        said = [one.model_dump(exclude=set(pictures)) for one in (self, other)]
        drawn = [[_pixels(getattr(one, name)) for name in pictures] for one in (self, other)]
        return said[0] == said[1] and drawn[0] == drawn[1]


def _pixels(png: str) -> tuple[str, tuple[int, int], bytes]:
    with Image.open(io.BytesIO(base64.b64decode(png))) as image:
        return image.mode, image.size, image.tobytes()
