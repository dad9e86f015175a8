"""Approved outcomes of a suite, image by image, in `STUDY.baseline.json` beside its study file."""

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from satbench.core.bounded import MIB, read_bounded
from satbench.core.errors import BadInput
from satbench.core.files import write_text
from satbench.core.parsing import parsed
from satbench.core.strict_json import parse_json
from satbench.results.schema import Verdict

FORMAT = 1
MOST_BYTES = 64 * MIB
APPROVE = "satbench check STUDY.yaml --approve REASON"
RESTORE = f"restore it from version control, or approve the suite again with `{APPROVE}`"
Right = npt.NDArray[np.bool_]
Name = Annotated[str, Field(min_length=1)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Outcomes(_Strict):
    """One figure, image by image: `right` of `n` images are classified correctly.

    bits: a bit an image in the order of the data set, 8 to a byte, the first one highest, in base64. digest: of them.
    """

    right: int = Field(ge=0)
    n: int = Field(gt=0)
    digest: str
    bits: str

    @classmethod
    def of(cls, outcomes: Iterable[bool]) -> Self:
        """The outcomes packed."""
        held = np.fromiter(outcomes, bool)
        packed = np.packbits(held).tobytes()
        return cls(
            right=int(held.sum()), n=len(held), digest=_digest(packed), bits=base64.b64encode(packed).decode("ascii")
        )

    @property
    def unpacked(self) -> Right:
        """Whether each image is classified correctly, (n,)."""
        packed = np.frombuffer(base64.b64decode(self.bits, validate=True), np.uint8)
        return np.unpackbits(packed, count=self.n).astype(bool)

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        packed = base64.b64decode(self.bits, validate=True)
        if len(packed) != -(-self.n // 8):
            raise ValueError(f"bits has {len(packed)} bytes, {self.n} images take {-(-self.n // 8)}")
        if _digest(packed) != self.digest:
            raise ValueError("bits and digest do not match")
        if int(self.unpacked.sum()) != self.right:
            raise ValueError(f"{int(self.unpacked.sum())} bits are 1, not {self.right}")
        return self


class Measured(_Strict):
    """What one evaluation gave for one network.

    network: digest of the weights. training: name of the training, None for a network that existed before. asked:
    digest of the evaluation. data: digest of the images. numerics: fingerprint of the arithmetic, "" where bits are not
    expected to be repeated, as on a GPU. trust: verdict on the network, None where it was not checked.
    """

    network: str
    training: str | None
    asked: str
    data: str
    numerics: str
    trust: Verdict | None
    figures: dict[Name, Outcomes] = Field(min_length=1)


class Baseline(_Strict):
    """The approved outcomes of a suite: of every network in every evaluation, by name."""

    format: int = FORMAT
    reason: str = Field(min_length=1)
    versions: dict[str, str]
    revision: str | None
    measured: dict[Name, Measured] = Field(min_length=1)


def baseline_file(study: Path) -> Path:
    """Where the baseline of a study file lies."""
    return study.with_suffix(".baseline.json")


def read_baseline(file: Path) -> Baseline:
    """The baseline in `file`.

    Raises `BadInput` when it is missing, damaged, of another format, or changed since it was approved; the reason names
    the first field that is wrong. The digest has no key: review of changes to the file is what protects it.
    """
    if not file.is_file():
        raise BadInput(f"there is no baseline {file}; measure and write it with `{APPROVE}`")
    try:
        raw = parse_json(read_bounded(file, MOST_BYTES))
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{file} cannot be read as JSON ({error}); {RESTORE}") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{file} is not a mapping; {RESTORE}")
    if raw.get("format") != FORMAT:
        raise BadInput(f"{file} has format {raw.get('format')!r}, this satbench reads {FORMAT}; {RESTORE}")
    digest = raw.pop("digest", None)
    baseline = parsed(Baseline, raw, str(file), RESTORE)
    if digest != _digest_of(raw):
        raise BadInput(f"{file} was changed after it was approved: its digest does not match; {RESTORE}")
    return baseline


def write_baseline(file: Path, baseline: Baseline) -> None:
    """Write the baseline with a digest over all of it, a line a figure; equal baselines are equal bytes."""
    said = baseline.model_dump(mode="json")
    write_text(file, _laid_out({**said, "digest": _digest_of(said)}) + "\n")


def _digest_of(said: dict[str, Any]) -> str:
    return _digest(json.dumps(said, sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _laid_out(value: Any, indent: str = "") -> str:
    """JSON in which a mapping without mappings in it is one line."""
    if not (isinstance(value, dict) and any(isinstance(one, dict) for one in value.values())):
        return json.dumps(value, ensure_ascii=False)
    inner = f"{indent}  "
    lines = [
        f"{inner}{json.dumps(key, ensure_ascii=False)}: {_laid_out(one, inner)}" for key, one in sorted(value.items())
    ]
    return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
