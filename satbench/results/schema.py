"""What a run folder holds: a manifest, and one record per sample, attack and threat."""

import pyarrow as pa
from pydantic import BaseModel, ConfigDict

SCHEMA_VERSION = 1

RECORDS = pa.schema(
    [
        ("sample_id", pa.string()),  # stable name of the image inside its data set
        ("sample_hash", pa.string()),  # of the pixels, so that a changed image is noticed
        ("label", pa.int32()),
        ("clean_prediction", pa.int32()),
        ("attack", pa.string()),  # the attack's repr: its identity
        ("norm", pa.string()),
        ("eps", pa.float64()),  # pixel scale of [0, 1]
        ("broken", pa.bool_()),  # misclassified by an example that passed the check; clean mistakes count
        ("prediction", pa.int32()),  # on the returned example
        ("distance_linf", pa.float32()),
        ("distance_l2", pa.float32()),
        ("distance_l1", pa.float32()),
        ("violation", pa.string()),  # "" or what was wrong with the returned example; such a row is never broken by it
    ]
)


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Threat(_Strict):
    """A norm and a radius in the pixel scale of [0, 1]."""

    norm: str
    eps: float


class ModelInfo(_Strict):
    """Which network was measured; `recipe`, `activation`, `method` and `seed` are known for satbench's own runs."""

    ref: str
    digest: str
    label: str
    activation: str | None = None
    method: str | None = None
    recipe: str | None = None
    seed: int | None = None
    trained_for: Threat | None = None


class DataInfo(_Strict):
    """Which images; `digest` covers ids, labels and pixels in order; `loader` made them from files."""

    name: str
    split: str
    n: int
    digest: str
    loader: str | None = None
    image_size: int | None = None


class Manifest(_Strict):
    """Everything about a run that is not a record; `seconds`, `created` and `host` are the only fields that vary."""

    schema_version: int
    model: ModelInfo
    data: DataInfo
    threats: list[Threat]
    attacks: list[str]
    seed: int
    batch_size: int
    device: str
    versions: dict[str, str]
    revision: str | None
    command: str
    seconds: float
    created: str
    host: str
