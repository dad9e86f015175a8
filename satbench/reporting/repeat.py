"""The commands that make a run's number again, from what its manifest says."""

import json
import re
import shlex
from functools import partial

from satbench.core.eps import format_eps, parse_eps
from satbench.results.schema import ARRAYS, Manifest, ModelInfo
from satbench.specs.attack import AttackInfo

SEARCHES = ("bf16", "surrogate")  # names of searches around an attack, which --search asks for


def eval_command(manifest: Manifest) -> str:
    """`satbench eval` with everything that the run decided, so that it does not depend on defaults.

    Where that cannot be spelled, as for an attack that searched on another network, it is the command that was typed;
    "" for a network or images that were given from Python.
    """
    model, data = manifest.model, manifest.data
    attacks = [_spelled(info) for info in manifest.attacks]
    if None in attacks or model.in_memory or data.name == ARRAYS:
        return manifest.command
    options: list[tuple[str, object]] = [("--model", model.ref)]
    options += [("--checkpoint", model.checkpoint)] if model.checkpoint else []
    options += [("--attack", attack) for attack in attacks]
    options += [("--threat", f"{one.norm}:{_radius(one.eps, one.norm)}") for one in manifest.threats]
    options += [("--dataset", data.name), ("--split", data.split), ("--n", data.n)]
    options += [("--image-size", data.image_size)] if data.image_size and not data.name.startswith("npz:") else []
    options += [("--loader", data.loader)] if data.loader else []
    options += [("--seed", manifest.seed), ("--batch-size", manifest.batch_size), ("--threads", manifest.threads)]
    options += [("--draws", manifest.draws)] if manifest.draws > 1 else []
    options += [("--search", manifest.search.form)]
    options += [("--group", model.group)] if model.group else []
    words = ["satbench", "eval", *(str(part) for pair in options for part in pair)]
    words += ["--save-examples"] if manifest.examples else []
    words += ["--no-trust"] if manifest.trust is None else []
    return shlex.join(words)


def load_statement(model: ModelInfo) -> str:
    """The Python statement that loads the network; "" for one that was given from Python."""
    if model.in_memory:
        return ""
    quoted = partial(json.dumps, ensure_ascii=False)
    arguments = [quoted(model.ref), *([f"checkpoint={quoted(model.checkpoint)}"] if model.checkpoint else [])]
    return f"model = satbench.load_model({', '.join(arguments)})"


def train_command(model: ModelInfo) -> str | None:
    """`satbench train` of the network, where a recipe and a seed are known of it; else None."""
    if model.recipe is None or model.seed is None or model.activation is None:
        return None
    recipe, _, changed = model.recipe.removesuffix("]").partition(" [")
    words = ["satbench", "train", recipe, "--activation", model.activation, "--seed", str(model.seed)]
    for setting in re.split(r", (?=[\w.]+=)", changed) if changed else ():
        words += ["--set", setting]
    return shlex.join(words)


def _spelled(info: AttackInfo) -> str | None:
    """The attack as the command line spells it, None where it has no such spelling."""
    if info.wraps is not None:
        return _spelled(info.wraps) if info.name in SEARCHES else None
    stated = {key: value for key, value in info.params.items() if key not in info.unset and value not in (None, "")}
    texts = [f"{key}={str(value).lower() if isinstance(value, bool) else value}" for key, value in stated.items()]
    if any(re.search(r"[,\s]|=.*=", text) for text in texts):
        return None
    return f"{info.name}:{','.join(texts)}" if texts else info.name


def _radius(eps: float, norm: str) -> str:
    """The usual spelling, where it reads back as the very number."""
    usual = format_eps(eps)
    return usual if parse_eps(usual, norm) == eps else repr(eps)
