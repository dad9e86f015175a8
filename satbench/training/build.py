"""The network and the optimizer of a config."""

import torch
from torch import nn

from satbench.data import Images
from satbench.models import Classifier, ModelSpec, build_model
from satbench.numerics.seeding import derive
from satbench.training.config import TrainConfig


def network(config: TrainConfig, images: Images) -> Classifier:
    """Freshly initialised from the config's seed, with the channel statistics of the training images."""
    mean, std = images.channel_statistics()
    channels, side, _ = images.shape
    torch.manual_seed(derive(config.seed, "init"))
    return build_model(
        ModelSpec(
            architecture=config.model.name,
            activation=config.activation,
            num_classes=images.num_classes,
            channels=channels,
            image_size=side,
            mean=mean,
            std=std,
            params=config.model.params,
        )
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
