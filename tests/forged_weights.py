"""Weights files whose header or tensors were edited, with the digest that a forger would compute."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from satbench.models.weights import PROBE_IMAGES, PROBE_LOGITS, tensors_digest


def rewrite(file: Path, change: Callable[[dict[str, Any], dict[str, Tensor]], Any], seal: bool = False) -> None:
    """Change header or tensors of a weights file; with `seal` compute its digest anew."""
    with safe_open(file, "pt") as whole:
        header = json.loads(whole.metadata()["satbench"])
    tensors = load_file(file)
    change(header, tensors)
    if seal:
        said = json.dumps({key: value for key, value in header.items() if key != "digest"}, sort_keys=True)
        weights = {name: tensors[name] for name in tensors.keys() - {PROBE_IMAGES, PROBE_LOGITS}}
        header["digest"] = f"sha256:{hashlib.sha256(f'{tensors_digest(weights)} {said}'.encode()).hexdigest()}"
    save_file(tensors, file, metadata={"satbench": json.dumps(header)})
