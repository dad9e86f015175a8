"""What a run folder holds: a manifest, and one record per sample, attack and threat."""

import hashlib
from typing import Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from satbench.core.eps import Threat
from satbench.core.extra import ExtraData
from satbench.core.parameters import Count, FromZero, Index
from satbench.specs.attack import AttackInfo
from satbench.specs.evaluation import SearchForm

SCHEMA_VERSION = 4
ARRAYS = "arrays"  # what images are called that come without a name

RECORDS = pa.schema(
    [
        ("sample_id", pa.string()),  # stable name of the image inside its data set
        ("sample_hash", pa.string()),  # of the pixels, so that a changed image is noticed
        ("label", pa.int32()),
        ("clean_prediction", pa.int32()),
        ("attack", pa.string()),  # the attack's `AttackInfo.id`
        ("norm", pa.string()),
        ("eps", pa.float64()),  # pixel scale of [0, 1]
        ("broken", pa.bool_()),  # misclassified by an example that passed the check; clean mistakes count
        ("prediction", pa.int32()),  # on the returned example
        ("margin", pa.float32()),  # largest wrong logit minus the true one on it; NaN where it was never judged
        ("correct_share", pa.float32()),  # share of the judge's passes that give the label on it: 0 or 1 for one pass
        ("distance_linf", pa.float32()),
        ("distance_l2", pa.float32()),
        ("distance_l1", pa.float32()),
        ("fell_at", pa.int32()),  # forward passes until the network first erred in ball and box; 0 as it is, -1 never
        ("forward", pa.int32()),  # passes of this image that were counted; 0 where a smaller eps had broken it already
        ("backward", pa.int32()),
        ("bad_gradient", pa.bool_()),  # whether a gradient of this image had entries that are NaN or infinite
        ("stage", pa.string()),  # the id of the attack of an ensemble that broke it, or ""
        ("violation", pa.string()),  # "" or what was wrong with the returned example; such a row is never broken by it
    ]
)

TIMING = pa.schema(
    [
        ("attack", pa.string()),
        ("stage", pa.string()),  # "" for an attack that is no ensemble
        ("norm", pa.string()),
        ("eps", pa.float64()),
        ("images", pa.int32()),  # attacked in this batch
        ("forward", pa.int64()),  # passes of all of them
        ("backward", pa.int64()),
        ("seconds", pa.float64()),
    ]
)

EXAMPLES = pa.schema(
    [
        ("attack", pa.string()),
        ("norm", pa.string()),
        ("eps", pa.float64()),
        ("sample_id", pa.string()),
        ("example_file", pa.string()),  # relative to the run's folder
        ("example_row", pa.int32()),
        ("example_digest", pa.string()),  # SHA-256 of the file
    ]
)

Verdict = Literal["pass", "not checked", "suspicious", "fail"]  # from best to worst


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelInfo(_Strict):
    """Which network was measured; `recipe`, `activation`, `method` and `seed` are known for satbench's own runs.

    `digest` is of the weights, and `code`, for a network that satbench did not build, of its modules' structure, plain
    attributes and source. `config` is a digest of the training config without its seed, None while the training has
    not ended, and `family` one without its activation too. Networks of equal `config`, or of one `group` that the user
    named, are seeds of one model; no others are. `extra_data` says which images of another data set it was also trained
    on. `ref` is what `--model` takes, or the class of a network that was given from Python (`in_memory`), and
    `checkpoint` the file of other weights than those that come with `ref`.
    """

    ref: str
    checkpoint: str | None = None
    in_memory: bool = False
    digest: str
    label: str
    activation: str | None = None
    method: str | None = None
    recipe: str | None = None
    seed: Index | None = None
    trained_for: Threat | None = None
    extra_data: ExtraData | None = None
    config: str | None = None
    family: str | None = None
    group: str | None = None
    code: str | None = None

    @property
    def reference(self) -> str:
        """Where the network comes from, as options spell it. A registry name alone stands for its own weights."""
        return self.ref if self.checkpoint is None else f"{self.ref} --checkpoint {self.checkpoint}"

    @property
    def short(self) -> str:
        """12 hex digits that tell the network from others of its name."""
        if self.code is None:
            return self.digest.removeprefix("sha256:")[:12]
        return hashlib.sha256(f"{self.digest} {self.code}".encode()).hexdigest()[:12]


class DataInfo(_Strict):
    """Which images; `digest` covers ids, labels and pixels in order; `loader` made them from files."""

    name: str
    split: str
    n: Count
    digest: str
    loader: str | None = None
    image_size: Count | None = None


class Finding(_Strict):
    """What one check of the trust battery saw: a sentence with its numbers, and the attack to try where it doubts."""

    check: str
    outcome: Verdict
    sentence: str
    next_attack: str | None = None


class Trust(_Strict):
    """Whether the run's numbers can be believed: the worst outcome of its findings.

    `depth` is "quick" or "full"; `forward` and `backward` are the passes of images that the checks took.
    """

    verdict: Verdict
    depth: Literal["quick", "full"]
    findings: list[Finding]
    forward: Index
    backward: Index


class SearchInfo(_Strict):
    """On what the attacks searched.

    form: what was asked for: "folded" and "bf16" a private copy, "plain" the network as it is, "surrogate" a copy with
        another derivative of ReLU.
    precision: in which the copy computes.
    copied, folded, channels_last: whether there is a copy, how many of its batch norms are folded, its memory layout.
    note: the same in words, with what was tried before; no part of any identity.
    """

    form: SearchForm
    precision: Literal["float32", "bf16"] = "float32"
    copied: bool = True
    folded: Index = 0
    channels_last: bool = False
    note: str = ""

    @property
    def identity(self) -> dict[str, object]:
        """All but the note: searches that agree in it are the same."""
        return self.model_dump(exclude={"note"})


class Manifest(_Strict):
    """Everything about a run that is not a record; equal runs differ in `seconds`, `created`, `host` and `seal` alone.

    `attacks` describes each attack that the records name. `search` says on what they searched;
    `notes` are what the attacks' libraries said; `fingerprint` is of the network's answers and of attacks from outside.
    `draws` is how many passes of a random network the judge takes a majority of; `threads` are torch's, and `numerics`
    is `evaluation.fingerprint.numerics_fingerprint` with them; `other_numerics` are those of other machines that
    computed parts of the run. `seal` is `store.seal_of` the run.
    """

    schema_version: int
    model: ModelInfo
    data: DataInfo
    threats: list[Threat] = Field(min_length=1)
    attacks: list[AttackInfo] = Field(min_length=1)
    seed: Index
    batch_size: Count
    search: SearchInfo
    examples: bool
    trust: Trust | None
    notes: list[str]
    device: str
    versions: dict[str, str]
    revision: str | None
    fingerprint: str = ""
    draws: Count = 1
    threads: Count = 1
    numerics: str = ""
    other_numerics: list[str] = []
    seal: str = ""
    command: str
    seconds: FromZero
    created: str
    host: str
