"""The images, the network and the optimizer of a config."""

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.data import Images, given_splits, training_splits
from satbench.models import Classifier, ModelSpec, build_model, own_code
from satbench.models.classifier import check_logits
from satbench.models.weights import load_strictly
from satbench.numerics.seeding import derive
from satbench.training.augment import WHILE_DECODING
from satbench.training.config import TrainConfig
from satbench.zoo import load
from satbench.zoo.registry import find_card, is_card


def splits(config: TrainConfig, data_dir: Path | None, data: object = None) -> tuple[Images, Images | None]:
    """The images to train on and those of the validation split, from `data` if given, else from the config's data set.

    Raises `BadInput` as `training_splits` does.
    """
    if data is not None:
        return given_splits(data, config.dataset, config.data.val, config.data.train_n)
    return training_splits(
        config.dataset,
        config.image_size,
        data_dir,
        config.data.val,
        config.data.train_n,
        in_files=config.augment in WHILE_DECODING,
    )


def network(config: TrainConfig, images: Images) -> Classifier:
    """Freshly initialised from the config's seed, with the channel statistics of the training images.

    Raises `BadInput` where code of the user's own gives other than finite logits, one for each class.
    """
    mean, std = images.channel_statistics()
    channels, side, _ = images.shape
    torch.manual_seed(derive(config.seed, "init"))
    spec = ModelSpec(
        architecture=config.model.name,
        activation=config.activation,
        num_classes=images.num_classes,
        channels=channels,
        image_size=side,
        mean=mean,
        std=std,
        params=config.model.params,
    )
    model, own = build_model(spec), own_code(spec)
    if own:
        kind = "model" if spec.architecture in own else "activation"
        check_logits(model, f"the network of {' with '.join(own)}", plugins.SOCKETS[kind].wanted)
    return model


def check_start(config: TrainConfig) -> str:
    """A line on `init_from` that is to be read before the run, "" for none: that its network has another activation.

    Raises `BadInput` for a network of another architecture. A card of the registry says both, and its weights are not
    downloaded.
    """
    name = config.init_from
    if name is None:
        return ""
    plugins.allow(config.own_code)  # of which the other network may be made too
    there = find_card(name)[1] if is_card(name) else _starting_network(name)[0].spec
    _refuse_other(name, "architecture", there.architecture, config.model.name)
    if there.activation == config.activation:
        return ""
    return (
        f"init_from {name}: its activation is {there.activation}, and this run trains its weights with "
        f"{config.activation}; set activation to train with the same one"
    )


def begin_with(net: Classifier, name: str) -> str:
    """Give a network the weights of another one, by its name as `zoo.load` takes it; returns their digest.

    The normalisation of the images comes with them. The activation may be another one, see `check_start`. Raises
    `BadInput` for a network of another architecture.
    """
    (start, digest), wanted = _starting_network(name), net.spec
    for field in ("architecture", "params", "num_classes", "channels"):
        _refuse_other(name, field, getattr(start.spec, field), getattr(wanted, field))
    load_strictly(net, start.state_dict(), name)
    net.spec = replace(wanted, mean=start.spec.mean, std=start.spec.std)
    return digest


def _starting_network(name: str) -> tuple[Classifier, str]:
    """The network that `init_from` names, and the digest of its weights."""
    loaded = load(name)
    if not isinstance(loaded.model, Classifier):
        raise BadInput(
            f"init_from {name}: it is none of satbench's own architectures; give a run folder or a registry name"
        )
    return loaded.model, loaded.info.digest


def _refuse_other(name: str, field: str, there: object, wanted: object) -> None:
    if there != wanted:
        raise BadInput(
            f"init_from {name}: its {field} is {there!r}, and that of the config is {wanted!r}; give settings of model "
            "and data set that agree with it"
        )


def optimizer(config: TrainConfig, model: nn.Module) -> torch.optim.Optimizer:
    """The config's, with decay on all parameters or on those of two or more dimensions, filters and matrices."""
    settings = config.optimizer
    decayed = [p for p in model.parameters() if p.ndim > 1 or settings.decay == "all"]
    spared = [p for p in model.parameters() if p.ndim <= 1 and settings.decay != "all"]
    groups = [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": spared, "weight_decay": 0.0}]
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=settings.lr)
    nesterov = settings.nesterov and settings.momentum > 0
    return torch.optim.SGD(groups, lr=settings.lr, momentum=settings.momentum, nesterov=nesterov)
