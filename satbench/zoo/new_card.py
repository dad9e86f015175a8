"""A card for a checkpoint of one's own: what its file tells, and the architecture that has its tensors."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from satbench.core.bounded import check_plain, read_bounded
from satbench.core.eps import format_eps
from satbench.core.errors import FAULTS, BadInput
from satbench.core.files import write_text
from satbench.core.names import check_name
from satbench.core.parsing import parsed
from satbench.models import ARCHITECTURES, ModelSpec, empty_model
from satbench.models.classifier import check_logits
from satbench.models.weights import Conversion, is_of_satbench, load_model_file, read_weights
from satbench.specs.names import TIMM
from satbench.zoo.card import SatbenchCard, StateDictCard
from satbench.zoo.fetch import sha256_file
from satbench.zoo.loading import weights_of
from satbench.zoo.registry import read_registry
from satbench.zoo.weights_file import build

Fields = dict[str, Any]


def new_card(checkpoint: Path, given: Mapping[str, Any], registry: Path | None) -> Fields:
    """The fields of a card for a run folder, a file that satbench wrote, or a plain state dict.

    `given` are fields that the file does not tell, such as the licence, or that are to be other ones; `weights` becomes
    relative to the folder of `registry` where it is below it. The network is built, gets the weights, and must give
    finite logits. Raises `BadInput` where that fails, where no architecture or more than one has these tensors, and
    for fields that are missing.
    """
    path = weights_of(checkpoint)
    check_plain(path)
    if not path.is_file():
        raise BadInput(f"no such checkpoint: {path}")
    folder = (registry.parent if registry else Path()).absolute()
    absolute = path.absolute()
    below = absolute.is_relative_to(folder) and registry is not None
    relative = absolute.relative_to(folder).as_posix() if below else str(absolute)
    known: Fields = {
        "weights": given.get("weights", relative),
        "sha256": sha256_file(path),
        "size": path.stat().st_size,
    }
    is_own = is_of_satbench(path)
    fields = _own(path, known, given) if is_own else _state_dict(path, known, given)
    return {key: value for key, value in fields.items() if value is not None}


def add_card(registry: Path, name: str, fields: Fields) -> None:
    """Add an entry to a registry file, which is created if missing; raises `BadInput` where the name is taken."""
    before = read_bounded(registry).decode() if registry.is_file() else ""
    if before.strip() and name in read_registry(registry):
        raise BadInput(f"{registry} has a network {name!r} already; give another name, or take the entry out")
    write_text(registry, f"{before.rstrip()}\n\n{entry_text(name, fields)}".lstrip())


def entry_text(name: str, fields: Fields) -> str:
    """An entry as a registry file has it."""
    return yaml.safe_dump({check_name(name, "--name"): fields}, sort_keys=False, allow_unicode=True, width=1000)


def _own(path: Path, known: Fields, given: Mapping[str, Any]) -> Fields:
    model, origin = load_model_file(path)
    if isinstance(origin, Conversion):
        raise BadInput(f"{path} is a converted release; its card is {origin.card}")
    spec = model.spec
    fields = {
        "summary": f"{spec.architecture} with {spec.activation}, {origin.recipe}",
        "format": "safetensors",
        "architecture": spec.architecture,
        "activation": spec.activation,
        "dataset": origin.dataset,
        "recipe": origin.recipe,
        "method": origin.method,
        "seed": origin.seed,
        "trained_for": {"norm": origin.threat.norm, "eps": format_eps(origin.threat.eps)},
        "extra_data": None if origin.extra is None else origin.extra.model_dump(),
        "parameters": _count(model),
        **given,
        **known,
    }
    _checked(SatbenchCard, path, fields, {"licence": "MIT"})
    check_logits(model, f"{path}: the network", _CORRECT)
    return fields


def _state_dict(path: Path, known: Fields, given: Mapping[str, Any]) -> Fields:
    tensors = read_weights(path)
    fields: Fields = {
        "activation": "smoothrelu" if any(name.endswith(".root") for name in tensors) else None,
        "channels": next((tensor.shape[1] for tensor in tensors.values() if tensor.ndim == 4), 3),
        "num_classes": next((tensor.shape[0] for tensor in reversed(tensors.values()) if tensor.ndim == 2), None),
        **given,
    }
    middle = [0.5] * (fields["channels"] if fields["channels"] in (1, 3) else 3)
    examples = {"activation": "relu", "image_size": 32, "mean": middle, "std": middle, "num_classes": 10}
    named = fields.pop("architecture", None)

    def card(architecture: object) -> Fields:
        said = {"summary": f"{architecture} with {fields['activation']}", "format": "state-dict"}
        return {**said, "architecture": architecture, **fields, "parameters": 1, **known}  # counted below

    _checked(StateDictCard, path, card(named or "mlp"), {**examples, "licence": "MIT"})
    whole = card(named or architecture_of(path, tensors, fields))
    described = parsed(StateDictCard, whole, f"the card of {path}", _ADVICE)
    model = empty_model(described.spec)
    whole["parameters"] = _count(model)
    model = build(described.model_copy(update={"parameters": whole["parameters"]}), path)
    check_logits(model, f"{path}: the network", _CORRECT)
    return whole


_ADVICE = "give fields by --set FIELD=VALUE"
_CORRECT = "correct image_size, channels, num_classes or params by --set"


def _checked(
    schema: type[SatbenchCard] | type[StateDictCard], path: Path, fields: Fields, examples: Mapping[str, object]
) -> None:
    """Raise `BadInput` for the first field that is wrong, else for all of `examples` that are missing."""
    missing = {name: value for name, value in examples.items() if fields.get(name) is None}
    parsed(schema, {**fields, **missing}, f"the card of {path}", _ADVICE)
    if missing:
        shown = " ".join(f"--set {shlex.quote(f'{name}={value}')}" for name, value in missing.items())
        raise BadInput(f"{path} does not tell {', '.join(missing)}; give what is true of it, such as {shown}")


def architecture_of(path: Path, tensors: Mapping[str, Tensor], fields: Fields) -> str:
    """The architecture of satbench that has these tensors, for a card with `fields`.

    Raises `BadInput` where none has, and where timm's network of that name has them too: the released ResNets pad their
    max pooling as TensorFlow does, torchvision's and timm's do not, and only the author knows which network it is.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    fitting = [name for name in ARCHITECTURES if _shapes(name, fields) == shapes]
    for name in fitting:
        twin = f"{TIMM}{name.replace('-', '_')}"
        if _shapes(twin, fields) == shapes:
            raise BadInput(
                f"{path} fits {name}, as the SAT release pads it, and {twin}, as timm and torchvision pad it; say "
                f"which it is: --set architecture={name} or --set architecture={twin}"
            )
        return name
    first, shape = next(iter(shapes.items()), ("none", ()))
    raise BadInput(
        f"{path}: no architecture of satbench with default parameters has these {len(shapes)} tensors (first: {first} "
        f"{shape}); give --set architecture=NAME and --set params='{{width: 4}}', or use the file with "
        "--model package.module:callable --checkpoint FILE"
    )


def _shapes(architecture: str, fields: Fields) -> dict[str, tuple[int, ...]] | None:
    """Of the state dict of an architecture, None where it cannot be built with these fields."""
    shape = (fields["num_classes"], fields["channels"], fields["image_size"])
    statistics = (tuple(fields["mean"]), tuple(fields["std"]))
    try:
        net = empty_model(
            ModelSpec(architecture, fields["activation"], *shape, *statistics, fields.get("params", {}))
        ).net
    except (BadInput, *FAULTS):
        return None
    return {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()}


def _count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())
