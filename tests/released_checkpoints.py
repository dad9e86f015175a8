"""Checkpoints of a released network with weights drawn here, for tests."""

from pathlib import Path

import numpy as np
from bundle_writer import write_bundle

from satbench.models import empty_model
from satbench.zoo.card import ReleasedCard
from satbench.zoo.convert import variables
from satbench.zoo.registry import find_card

NAME, RELEASE = "effnet-b0", "efficientnet-b0"
INDEX, DATA = f"{RELEASE}.index", f"{RELEASE}.data-00000-of-00001"


def card() -> ReleasedCard:
    found = find_card(NAME)[1]
    assert isinstance(found, ReleasedCard)
    return found


def write_checkpoint(prefix: Path, seed: int) -> None:
    """A checkpoint of B0 with weights drawn here; its names and shapes are checked in test_convert."""
    source = np.random.default_rng(seed)
    arrays = {}
    for one in variables(empty_model(card().spec).net, RELEASE):
        shape = one.shapes[-1]
        if one.key.endswith("running_var"):
            arrays[one.name] = source.uniform(0.5, 1.5, shape).astype(np.float32)
        else:
            scale = np.sqrt(2 / np.prod(shape[:-1])) if max(shape) != np.prod(shape) else 0.2
            arrays[one.name] = (scale * source.standard_normal(shape) + one.key.endswith("bn.weight")).astype(
                np.float32
            )
    write_bundle(prefix, arrays | {"global_step": np.array(1, np.int64)})
