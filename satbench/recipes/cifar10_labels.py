"""Methods with refined labels on CIFAR-10; see `recipes.cifar10` for what departs from all authors."""

from typing import Any

from satbench.recipes.cifar10 import BATCH, BLACK, OLDER, STEP, WIDE, cifar10_as
from satbench.training.config import TrainConfig

SELF_ADAPTIVE = {"method.base": "trades", "method.clean_share": 1, "method.weighted": True}


def cifar10_sglr() -> TrainConfig:
    """Self-guided label refinement on PGD-10 adversarial training of ResNet-18, from the 90th epoch on.

    Paper: Li, Yu et al. 2024 (CVPR, arXiv 2403.09101): their released code, in which the method is called SGLS: 200
    epochs, 0.1 divided by ten from the 100th and 150th on, decay 5e-4, momentum of the labels 0.9, clean share 0.2.
    The start epoch is uncertain: their scripts give 90 under an option that the program does not know.
    Departures: those of all recipes; their images are not normalised before the network.
    Command: `satbench train cifar10-sglr`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _sglr("cifar10-sglr")


def cifar10_sglr_trades() -> TrainConfig:
    """Self-guided label refinement on TRADES, a reconstruction: how the authors join the two is not known.

    Paper: Li, Yu et al. 2024 (CVPR, arXiv 2403.09101); the settings are those of `cifar10-sglr`, beta 6.
    Command: `satbench train cifar10-sglr-trades`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _sglr("cifar10-sglr-trades", **{"method.base": "trades", "method.beta": 6.0})


def _sglr(name: str, **changes: Any) -> TrainConfig:
    drops = {"schedule.milestones": [99 / 200, 149 / 200]}
    return cifar10_as(name, "sglr", model="resnet18-cifar", **BLACK, **drops, **{"method.step_size": STEP, **changes})


def cifar10_self_adaptive() -> TrainConfig:
    """Self-adaptive training on TRADES with beta 6, WRN-34-10, labels refined from the 70th of 100 epochs on.

    Paper: Huang et al. 2020 (NeurIPS): 0.1 divided by ten from the 75th, 90th and 100th on, decay 2e-4, eps 0.031,
    step 0.007, momentum of the labels 0.9.
    Departures: those of all recipes; their images are not normalised, and their attack's start is not cut at the box
    before its first gradient.
    Command: `satbench train cifar10-self-adaptive`.
    Hardware: one GPU of 24 GB or more. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-self-adaptive",
        "sglr",
        **WIDE,
        **OLDER,
        **BLACK,
        **SELF_ADAPTIVE,
        **{
            "method.beta": 6.0,
            "method.start_epoch": 69,
            "epochs": 100,
            "schedule.milestones": [74 / 100, 89 / 100, 99 / 100],
            "optimizer.weight_decay": 2e-4,
        },
    )


def cifar10_te() -> TrainConfig:
    """PGD-10 adversarial training with temporal ensembling, ResNet-18, its weight growing from epoch 90 to 150.

    Paper: Dong et al. 2022 (ICLR, arXiv 2106.01606): 200 epochs, 0.1 divided by ten at 100 and 150, decay 5e-4,
    momentum of the average 0.9, weight 300.
    Departures: those of all recipes; their images are not normalised, and their attack's start is not cut at the box
    before its first gradient.
    Command: `satbench train cifar10-te`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _te("cifar10-te")


def cifar10_te_trades() -> TrainConfig:
    """TRADES with beta 6 and temporal ensembling, ResNet-18, its weight growing from epoch 90 to 150.

    Paper: Dong et al. 2022 (ICLR, arXiv 2106.01606); the other settings are those of `cifar10-te`.
    Departures: those of all recipes; their images are not normalised, and their attack's start is not cut at the box
    before its first gradient.
    Command: `satbench train cifar10-te-trades`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _te("cifar10-te-trades", **{"method.base": "trades", "method.beta": 6.0})


def _te(name: str, **changes: Any) -> TrainConfig:
    return cifar10_as(name, "te", model="resnet18-cifar", **BLACK, **{"method.step_size": STEP, **changes})


def cifar10_adr() -> TrainConfig:
    """PGD-10 adversarial training with annealing self-distillation rectification of the labels, ResNet-18.

    Paper: Wu et al. 2024 (ICLR, arXiv 2305.12118): 200 epochs, Nesterov, 0.1 divided by ten at 100 and 150, decay 5e-4,
    teacher of decay 0.995, temperature 2.5 to 2, interpolation 0.7 to 0.95.
    Departures: those of all recipes; their schedules of temperature and interpolation are half an update behind.
    Command: `satbench train cifar10-adr`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _adr("cifar10-adr", "adr")


def cifar10_adr_trades() -> TrainConfig:
    """TRADES with beta 6 and annealing self-distillation rectification of the labels, ResNet-18.

    Paper: Wu et al. 2024 (ICLR, arXiv 2305.12118); the other settings are those of `cifar10-adr`.
    Departures: those of `cifar10-adr`; their attack starts from uniform noise in [0, 0.001], and their loss passes
    clean and crafted images together.
    Command: `satbench train cifar10-adr-trades`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _adr("cifar10-adr-trades", "adr", **{"method.base": "trades", "method.beta": 6.0})


def cifar10_adr_awp() -> TrainConfig:
    """Adversarial weight perturbation around `cifar10-adr`, gamma 0.005, measured on an average of the weights.

    Paper: Wu et al. 2024 (ICLR, arXiv 2305.12118): temperature 2.5 to 1.5, interpolation 0.7 to 0.85, momentum without
    Nesterov.
    Departures: those of `cifar10-adr`; their weight perturbation moves every parameter, their running statistics see
    the images at the weights before that, and what they measure is the teacher.
    Command: `satbench train cifar10-adr-awp`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _adr(
        "cifar10-adr-awp",
        "awp",
        averaging="ema",
        **{
            "averaging.warmup": 0,
            "method.method": "adr",
            "method.gamma": 0.005,
            "method.end_temperature": 1.5,
            "method.end_interpolation": 0.85,
            "optimizer.nesterov": False,
        },
    )


def _adr(name: str, method: str, /, **changes: Any) -> TrainConfig:
    nesterov = {"optimizer.nesterov": True, "method.step_size": STEP}
    return cifar10_as(name, method, model="resnet18-cifar", **BLACK, **BATCH, **{**nesterov, **changes})
