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


def begin_with(net: Classifier, name: str) -> str:
    """Give a network the weights of another one, by its name as `zoo.load` takes it; returns their digest.

    The normalisation of the images comes with them. Raises `BadInput` for a network of another architecture.
    """
    loaded = load(name)
    if not isinstance(loaded.model, Classifier):
        raise BadInput(
            f"init_from {name}: it is none of satbench's own architectures; give a run folder or a registry name"
        )
    there, wanted = loaded.model.spec, net.spec
    for field in ("architecture", "params", "num_classes", "channels"):
        if getattr(there, field) != getattr(wanted, field):
            raise BadInput(
                f"init_from {name}: its {field} is {getattr(there, field)!r}, and that of the config is "
                f"{getattr(wanted, field)!r}; give settings of model and data set that agree with it"
            )
    load_strictly(net, loaded.model.state_dict(), name)
    net.spec = replace(wanted, mean=there.mean, std=there.std)
    return loaded.info.digest


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
