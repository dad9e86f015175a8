"""A training run read from a file: config.json of a run folder, or YAML of the same form written by hand."""

from pathlib import Path
from typing import Any

from torch import nn

from satbench.core.bounded import MIB, check_plain, read_bounded
from satbench.core.errors import BadInput, reason
from satbench.core.lookup import pick
from satbench.core.parsing import parsed
from satbench.core.strict_json import parse_json
from satbench.core.strict_yaml import read_mapping
from satbench.models import ModelSpec, empty_model, own_code
from satbench.models.weights import SCHEMA_VERSION
from satbench.training.augment import augmentation
from satbench.training.averaging import AVERAGES
from satbench.training.config import TrainConfig
from satbench.training.evaluators import evaluators_of
from satbench.training.schedule import lr_factor
from satbench.training.stages import method_of, stage_configs

SUFFIXES = (".json", ".yaml", ".yml")
WRAPPER = ("schema_version", "config", "data")


def read_recipe(file: Path) -> TrainConfig:
    """The config in a file, bare or below `config` beside a `schema_version`, as satbench writes it.

    Raises `BadInput` naming the file, and the field where one is unknown or its value is bad. The fingerprints of
    images below `data` are not compared.
    """
    check_plain(file)
    if not file.is_file():
        raise BadInput(
            f"no such file: {file}; give a config.json, a YAML of the same form or a name of `satbench recipes`"
        )
    raw = _json(file) if file.suffix == ".json" else read_mapping(file)
    if "config" in raw:
        unknown = [key for key in raw if key not in WRAPPER]
        if unknown:
            raise BadInput(f"{file}: unknown field {unknown[0]!r} beside config; expected {' and '.join(WRAPPER)}")
        if raw.get("schema_version") != SCHEMA_VERSION:
            raise BadInput(
                f"{file} has schema version {raw.get('schema_version')!r}, this satbench reads {SCHEMA_VERSION}; "
                "write it anew"
            )
        raw = raw["config"]
    config = parsed(TrainConfig, raw, str(file))
    try:
        check_parameters(config)
    except BadInput as error:
        raise BadInput(f"{file}: {error}") from None
    return config


def _json(file: Path) -> dict[str, Any]:
    try:
        raw = parse_json(read_bounded(file, MIB))
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{file} cannot be read as JSON ({reason(error)}); restore it") from None
    if not isinstance(raw, dict):
        raise BadInput(f"{file} holds a {type(raw).__name__}; expected a mapping")
    return raw


def check_parameters(config: TrainConfig) -> None:
    """Raise `BadInput` for names and parameters that no schema knows, by building what takes them."""
    for stage in stage_configs(config):
        method_of(stage)
        lr_factor(stage.schedule.name, stage.schedule.params, 0.0)
    evaluators_of(config)
    pick(AVERAGES, config.averaging.name, "averaging", nn.Identity(), **config.averaging.params)
    augmentation(config.augment)
    spec = ModelSpec(
        architecture=config.model.name,
        activation=config.activation,
        num_classes=10,
        channels=3,
        image_size=config.image_size or 224,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        params=config.model.params,
    )
    if not own_code(spec):  # which may be for other images than these
        empty_model(spec)
