"""Networks by name, path or callable: the one way from a `--model` to something that can be measured."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from satbench.core.errors import BadInput
from satbench.core.progress import Progress, silent
from satbench.models import own_code
from satbench.models.classifier import Classifier
from satbench.models.weights import (
    Conversion,
    Provenance,
    is_of_satbench,
    load_model_file,
    model_digest,
    read_weights,
)
from satbench.numerics.device import resolve_device
from satbench.results.schema import ModelInfo
from satbench.zoo.cached_only import cached_only
from satbench.zoo.card import CLASSES, Card, ReleasedCard, SatbenchCard, StateDictCard
from satbench.zoo.fetch import sha256_file
from satbench.zoo.hub import WEIGHTS, hub_file, pinned_name, timm_network
from satbench.zoo.libraries import LIBRARIES, class_names
from satbench.zoo.loaded import Loaded, from_module
from satbench.zoo.own_network import from_callable
from satbench.zoo.program import is_program, load_program
from satbench.zoo.registry import find_card, is_card, read_aliases, read_cards
from satbench.zoo.released import convert_card, is_release, known_digests, load_released, source_digests
from satbench.zoo.robustbench import SIDES, from_robustbench
from satbench.zoo.tf_bundle import Bundle
from satbench.zoo.weights_file import build, obtain_weights

BEST = "best.safetensors"
LAST = "last.safetensors"
HUB_NAMES = ("hf-hub:", "hf_hub:")  # how timm spells repositories of the Hugging Face Hub


def load(ref: str, checkpoint: Path | None = None, device: str = "cpu", progress: Progress = silent) -> Loaded:
    """The network that `ref` names.

    A card of the registry, which a folder of that name never replaces; `timm:NAME`, `torchvision:NAME`,
    `robustbench:DATASET/THREAT/NAME`, `hf:OWNER/NAME[@REVISION]`; `package.module:callable`; a training run's folder, a
    .safetensors file, or a program (.pt2 or TorchScript). `checkpoint` gives other weights to a card, to networks of
    timm and torchvision and to a callable; for a card it is a TensorFlow checkpoint's prefix, a run folder or a
    .safetensors file. Raises `BadInput` for an unknown name, bytes whose digest is not the card's, weights that do not
    fit, and anything that is not a torch module.
    """
    if not ref.strip():
        raise BadInput("the model's name is empty; give a name from `satbench models`")
    place = resolve_device(device)
    kind, colon, name = ref.partition(":")
    path = Path(ref)
    is_other = is_card(ref) or (colon and kind in (*LIBRARIES, "hf", "robustbench"))
    is_file = not is_other and (path.is_dir() or path.suffix == ".safetensors" or is_program(path))
    if checkpoint is not None and is_file:
        raise BadInput(
            f"{ref!r} brings its own weights; leave out --checkpoint, or give it to a registry name, timm:NAME or "
            "package.module:callable"
        )
    if colon and (kind == "hf" or (kind == "timm" and name.startswith(HUB_NAMES))):
        loaded = _from_hub(ref, name.removeprefix(HUB_NAMES[0]).removeprefix(HUB_NAMES[1]), checkpoint)
    elif colon and kind == "robustbench":
        loaded = _from_robustbench(ref, name, checkpoint, progress)
    elif colon and kind in LIBRARIES:
        loaded = _from_library(ref, kind, name, checkpoint)
    elif is_file and is_program(path):
        loaded = _from_program(ref, path, place)
    elif is_file:
        loaded = _from_file(ref, weights_of(path))
    elif path.suffix in (".pt", ".pth", ".ckpt", ".bin"):
        read_weights(path)
        raise BadInput(
            f"{path} holds weights only; name their network: --model package.module:callable --checkpoint {path}"
        )
    elif colon and not path.exists():
        loaded = from_callable(ref, checkpoint).with_info(checkpoint=checkpoint and str(checkpoint))
    elif _is_tf_checkpoint(path):
        raise BadInput(f"{ref} is a TensorFlow checkpoint; name its network: --model NAME --checkpoint {ref}")
    elif len(path.parts) > 1 or path.is_file():
        raise BadInput(f"{ref} is no run folder or .safetensors file; give one, or a name from `satbench models`")
    else:
        loaded = _from_card(ref, checkpoint, progress)
    loaded.model.to(place)
    return loaded


def load_model(name: str | Path, checkpoint: str | Path | None = None, device: str = "cpu") -> nn.Module:
    """The named network in eval mode on `device`: float (N, C, H, W) RGB in [0, 1] to logits (N, K). See `load`."""
    return load(str(name), Path(checkpoint) if checkpoint is not None else None, device).model


def weights_of(path: Path) -> Path:
    """The file itself, or the best weights of a run folder."""
    if not path.is_dir():
        return path
    best = path / BEST
    prefixes = sorted(path.glob("*.index"))
    if prefixes and not best.is_file():
        raise BadInput(f"{path} holds a TensorFlow checkpoint; give its prefix, {prefixes[0].with_suffix('')}")
    if not best.is_file():
        raise BadInput(f"{path} is not a finished training run: it has no {BEST}; run `satbench train --out {path}`")
    return best


def _is_tf_checkpoint(path: Path) -> bool:
    return path.suffix == ".index" or path.with_name(f"{path.name}.index").is_file()


def _from_card(name: str, checkpoint: Path | None, progress: Progress) -> Loaded:
    own, card = find_card(name)
    notes = [f"{name} is {own}: {read_aliases()[name].because}"] if own != name else []
    if Path(name).exists():
        notes.append(f"{name} is the network of that name; for the folder or file give ./{name}")
    if checkpoint is not None:
        loaded = _with_checkpoint(own, card, checkpoint)
    elif isinstance(card, ReleasedCard):
        loaded = _converted(own, *load_released(own, card, progress))
    elif isinstance(card, SatbenchCard):
        loaded = _described(own, card, obtain_weights(own, card, progress))
    else:
        loaded = _state_dict(own, card, obtain_weights(own, card, progress))
    return replace(loaded, note="; ".join([*notes, *([loaded.note] if loaded.note else [])]) or None)


def fetch_weights(name: str, card: Card, progress: Progress = silent) -> Path:
    """The file of a card's weights, checked; downloaded and converted where it is missing or damaged."""
    if isinstance(card, ReleasedCard):
        return load_released(name, card, progress)[0]
    return obtain_weights(name, card, progress)


def weights_file(info: ModelInfo) -> Path | None:
    """The file of satbench's own that a network was loaded from; None for other networks."""
    path = Path(info.ref)
    if is_card(info.ref):
        path = Path(info.checkpoint) if info.checkpoint else fetch_weights(*find_card(info.ref))
    if path.is_dir():
        path = weights_of(path)
    return path if path.is_file() and is_of_satbench(path) else None


def _described(name: str, card: SatbenchCard, path: Path) -> Loaded:
    """A file that satbench wrote, which must hold the network that the card describes."""
    loaded = _from_file(name, path)
    assert isinstance(loaded.model, Classifier)
    spec = loaded.model.spec
    found = {"architecture": spec.architecture, "activation": spec.activation, "seed": loaded.info.seed}
    for field, value in found.items():
        if getattr(card, field) != value:
            raise BadInput(f"{path}: its {field} is {value}, but the card of {name} says {getattr(card, field)}")
    return loaded


def _state_dict(name: str, card: StateDictCard, path: Path) -> Loaded:
    model = build(card, path)
    info = ModelInfo(
        ref=name,
        digest=model_digest(model),
        label=name,
        activation=card.activation,
        method=card.method,
        recipe=card.recipe,
        seed=card.seed,
        trained_for=card.trained_for,
        extra_data=card.extra_data,
    )
    return Loaded(model, info, card.dataset, card.image_size, module=_module(model))


def _with_checkpoint(name: str, card: Card, checkpoint: Path) -> Loaded:
    """The card's network with other weights; they bear its name alone only when they are the release's own."""
    given = str(checkpoint)
    if isinstance(card, StateDictCard):
        unknown = dict.fromkeys(("seed", "method", "recipe", "trained_for", "extra_data"))
        loaded = _state_dict(name, card, checkpoint)
        return loaded.with_info(checkpoint=given, label=f"{name} [{checkpoint.name}]", **unknown)
    if checkpoint.is_dir() or checkpoint.suffix == ".safetensors":
        loaded = _from_file(given, weights_of(checkpoint))
        assert isinstance(loaded.model, Classifier)
        found, wanted = loaded.model.spec, (card.architecture, card.activation)
        if (found.architecture, found.activation) != wanted:
            raise BadInput(
                f"{checkpoint} holds a {found.architecture} with {found.activation}, but {name} is a "
                f"{card.architecture} with {card.activation}; give --model {checkpoint} alone"
            )
        is_release = loaded.info.ref != given
        return loaded if is_release else loaded.with_info(ref=name, checkpoint=given)
    if not isinstance(card, ReleasedCard):
        raise BadInput(f"{checkpoint} is no run folder or .safetensors file, which is what {name} can take")
    with Bundle(checkpoint) as bundle:
        known = known_digests(name, card)
        released = source_digests(card, bundle) == known
        model = convert_card(card, bundle).model
    info = ModelInfo(
        ref=name,
        checkpoint=None if released else given,
        digest=model_digest(model),
        label=name if released else f"{name} [{checkpoint.name}]",
        activation=card.activation,
        method=card.method if released else None,
        recipe=card.recipe if released else None,
        trained_for=card.trained_for if released or known is None else None,
    )
    return Loaded(model, info, card.dataset, card.image_size, loader=card.loader)


def _from_file(ref: str, path: Path) -> Loaded:
    model, origin = load_model_file(path)
    if isinstance(origin, Conversion):
        return _converted(ref, path, model, origin)
    return _trained(ref, model, origin)


def _trained(ref: str, model: Classifier, origin: Provenance) -> Loaded:
    recipe, note = origin.recipe, None
    if origin.unfinished is not None:
        recipe = f"{recipe}, epoch {origin.epoch + 1} of {origin.unfinished}"
        note = f"epoch {origin.epoch + 1} of {origin.unfinished} of a training that has not ended; it counts as no seed"
    info = ModelInfo(
        ref=ref,
        digest=model_digest(model),
        label=origin.label,
        activation=model.spec.activation,
        method=origin.method,
        recipe=recipe,
        seed=origin.seed,
        trained_for=origin.threat,
        extra_data=origin.extra,
        config=origin.config if note is None else None,
        family=origin.family,
    )
    return Loaded(
        model,
        info,
        origin.dataset,
        model.spec.image_size,
        origin.train_digest,
        note=note,
        class_names=origin.class_names,
        val=origin.val,
        train_n=origin.train_n,
        module=_module(model),
    )


def _module(model: Classifier) -> str | None:
    """The module of the user's own of which the network is made."""
    return next((name.partition(":")[0] for name in own_code(model.spec)), None)


def _converted(ref: str, path: Path, model: Classifier, origin: Conversion) -> Loaded:
    card = read_cards().get(origin.card)
    released = card if isinstance(card, ReleasedCard) and is_release(model.spec, origin, origin.card, card) else None
    info = ModelInfo(
        ref=origin.card if released else ref,
        digest=origin.digest,
        label=origin.card if released else f"{origin.card} [{path.name}]",
        activation=model.spec.activation,
        method=released.method if released else None,
        recipe=released.recipe if released else None,
        trained_for=origin.threat,
    )
    return Loaded(model, info, origin.dataset, model.spec.image_size, loader=origin.loader)


def _from_hub(ref: str, repository: str, checkpoint: Path | None) -> Loaded:
    """A repository at its pinned commit, which is in the reference that results keep."""
    if checkpoint is not None:
        raise BadInput(f"{ref!r} brings its own weights; leave out --checkpoint")
    pinned = pinned_name(repository)
    weights = hub_file(pinned, *WEIGHTS)
    if is_of_satbench(weights):
        return _from_file(f"hf:{pinned}", weights)
    return _of_collection(timm_network(pinned, weights), f"hf:{pinned}", f"hf:{repository}")


def _from_robustbench(ref: str, name: str, checkpoint: Path | None, progress: Progress) -> Loaded:
    if checkpoint is not None:
        raise BadInput(f"{ref!r} brings its own weights; leave out --checkpoint")
    entry = from_robustbench(name, progress)
    loaded = from_module(entry.model, ref, ref)
    loaded.model.eval()
    loader = "torchvision" if entry.dataset == "imagenet" else None
    loaded = replace(loaded, dataset=entry.dataset, image_size=SIDES[entry.dataset], loader=loader)
    return loaded.with_info(trained_for=entry.threat)


def _from_program(ref: str, path: Path, device: torch.device) -> Loaded:
    """A program has no more identity than its file: equal weights may be used in other ways."""
    model, shape = load_program(path, device)
    loaded = from_module(model, ref, path.name)
    loaded.model.eval()
    note = f"{path} is a program, which runs as it is; use files of authors you trust"
    loaded = replace(loaded, image_size=shape[-1] if shape else None, note=note)
    return loaded.with_info(digest=f"sha256:{sha256_file(path)}")


def _from_library(ref: str, kind: str, name: str, checkpoint: Path | None) -> Loaded:
    with cached_only():
        model = LIBRARIES[kind](name, checkpoint)
    if checkpoint is not None:
        return _of_collection(model, ref, f"{ref} [{checkpoint.name}]").with_info(checkpoint=str(checkpoint))
    return replace(_of_collection(model, ref, ref), class_names=class_names(kind, name))


def _of_collection(model: Classifier, ref: str, label: str) -> Loaded:
    """A classifier of 1,000 classes is taken to know ImageNet's."""
    imagenet = model.spec.num_classes == CLASSES
    return Loaded(
        model,
        ModelInfo(ref=ref, digest=model_digest(model), label=label),
        dataset="imagenet" if imagenet else None,
        image_size=model.spec.image_size,
        loader="torchvision" if imagenet else None,
    )
