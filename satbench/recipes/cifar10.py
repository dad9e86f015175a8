"""Every method on CIFAR-10 after its authors' released code; `docs/recipes.md` compares the settings with sources.

None of these recipes follows its authors in everything, so none states a published figure. Departures of all of them:

- satbench trains on 85% of the training images, so an epoch has 15% fewer updates, and picks the best epoch by PGD-10
  on the other 15%. The authors train on all images and mostly pick the epoch on the test set, or take the last.
- Running statistics of batch norms move once an update. The authors' code with batch statistics while crafting
  (`attack_bn_mode=train`) also moves them in every pass of the attack.
"""

from typing import Any

from satbench.training.config import TrainConfig
from satbench.training.settings import Named, OptimizerConfig, StageConfig, ThreatConfig

WIDE = {"model": "wide-resnet", "model.depth": 34, "model.width": 10}
STEP = 2 / 255  # of PGD-10 at 8/255
OLDER = {"threat.eps": 0.031, "method.step_size": 0.007}  # of TRADES and MART
BLACK = {"augment": "crop-flip"}  # torchvision's padding; Rice et al. mirror
BATCH = {"attack_bn_mode": "train"}


def cifar10_as(name: str, method: str, /, **changes: Any) -> TrainConfig:
    """Rice et al. 2020 (arXiv 2002.11569): PreActResNet-18, 200 epochs, 0.1 divided by ten at 100 and 150.

    Every parameter decays, crops are taken out of mirrored images.
    """
    start = TrainConfig(
        recipe=name,
        dataset="cifar10",
        model=Named(name="preact-resnet18"),
        activation="relu",
        method=Named(name=method),
        threat=ThreatConfig(norm="Linf", eps=8 / 255),
        epochs=200,
        batch_size=128,
        optimizer=OptimizerConfig(name="sgd", lr=0.1, momentum=0.9, nesterov=False, weight_decay=5e-4, decay="all"),
        augment="crop-flip-reflect",
        schedule=Named(name="piecewise", params={"milestones": [100 / 200, 150 / 200]}),
    )
    return start.with_values({"recipe": name, **changes})


def cifar10_standard() -> TrainConfig:
    """Clean training of PreActResNet-18, the lower reference row.

    Paper: none; the settings are those of `cifar10-pgd-at`.
    Command: `satbench train cifar10-standard`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as("cifar10-standard", "standard")


def cifar10_pgd_at() -> TrainConfig:
    """PGD-10 adversarial training of PreActResNet-18, crafted with batch statistics as the authors do.

    Paper: Rice et al. 2020 (arXiv 2002.11569). Their start is uniform, their step 2/255.
    Departures: those of all recipes; their code also passes the crafted and the clean images once more in training
    mode, which moves running statistics.
    Command: `satbench train cifar10-pgd-at`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as("cifar10-pgd-at", "pgd_at", **BATCH, **{"method.step_size": STEP})


def cifar10_sat() -> TrainConfig:
    """Smooth adversarial training with PGD-10 and SiLU on PreActResNet-18; `--activation relu` is its ReLU twin.

    Paper: Xie et al. 2020 (arXiv 2006.14536), whose settings on CIFAR-10 are not known: those of Rice et al. 2020
    (arXiv 2002.11569) stand in, with running statistics while crafting and decay on filters and matrices only, as in
    the released SAT code.
    Command: `satbench train cifar10-sat`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _sat("cifar10-sat", **{"method.step_size": STEP})


def cifar10_sat_single_step() -> TrainConfig:
    """`cifar10-sat` with one step of length eps from a random start, as the paper trains on ImageNet.

    Paper: Xie et al. 2020 (arXiv 2006.14536).
    Command: `satbench train cifar10-sat-single-step`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return _sat("cifar10-sat-single-step", **{"method.steps": 1})


def _sat(name: str, **changes: Any) -> TrainConfig:
    return cifar10_as(name, "pgd_at", activation="silu", **{"optimizer.decay": "filters", **changes})


def cifar10_bag_of_tricks() -> TrainConfig:
    """The baseline that the Bag of Tricks recommends, on WRN-34-10; each trick is one setting away.

    Paper: Pang et al. 2021 (arXiv 2010.00467): 110 epochs, 0.1 divided by ten at 100 and 105, decay 5e-4, PGD-10 with
    running statistics. Tricks: label_smoothing.amount=0.1, method.early_stop=0:1+60:2+100:3, activation=softplus,
    optimizer.warmup_epochs=15, threat.warmup_epochs=15, attack_bn_mode=train.
    Departures: those of all recipes; their code also passes the clean images twice a batch in training mode, which
    moves running statistics, and its warm-ups go in steps of an epoch from 1/15 to 16/15 where these go from 0 to 1.
    Command: `satbench train cifar10-bag-of-tricks`.
    Hardware: one GPU of 24 GB or more. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-bag-of-tricks",
        "pgd_at",
        **WIDE,
        **{"method.step_size": STEP, "epochs": 110, "schedule.milestones": [100 / 110, 105 / 110]},
    )


def cifar10_trades() -> TrainConfig:
    """TRADES with beta 6 on WRN-34-10, ended after two epochs at the reduced learning rate.

    Paper: Zhang et al. 2019 (arXiv 1901.08573). Their code counts epochs from 1 and ends at 76: 75 and 76 run at a
    tenth of 0.1, and the drops at 90 and 100 are never reached. Decay 2e-4, eps 0.031, step 0.007.
    Departures: those of all recipes; their images are not normalised, their attack's start is not cut at the box
    before its first gradient, and their loss passes the clean images twice, which moves running statistics.
    Command: `satbench train cifar10-trades`.
    Hardware: one GPU of 24 GB or more. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-trades",
        "trades",
        **WIDE,
        **OLDER,
        **BLACK,
        **{"epochs": 76, "schedule.milestones": [74 / 76], "optimizer.weight_decay": 2e-4},
    )


def cifar10_mart() -> TrainConfig:
    """MART with beta 5 on ResNet-18 with activations after the batch norms.

    Paper: Wang et al. 2020 (ICLR): 120 epochs, 0.01 divided by ten from the 75th, 90th and 100th on, decay 3.5e-3, eps
    0.031, step 0.007.
    Departures: those of all recipes; their images are not normalised, and their attack's start is not cut at the box
    before its first gradient.
    Command: `satbench train cifar10-mart`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-mart",
        "mart",
        model="resnet18-cifar",
        **OLDER,
        **BLACK,
        **{
            "epochs": 120,
            "schedule.milestones": [74 / 120, 89 / 120, 99 / 120],
            "optimizer.lr": 0.01,
            "optimizer.weight_decay": 3.5e-3,
        },
    )


def cifar10_awp() -> TrainConfig:
    """Adversarial weight perturbation around PGD-10 adversarial training, gamma 0.01.

    Paper: Wu et al. 2020 (arXiv 2004.05884): PreActResNet-18, 200 epochs, drops at 100 and 150. Their code crafts with
    batch statistics, all but the first batch of an epoch.
    Departures: those of all recipes; the first batch of an epoch is crafted as the others, and their code also passes
    the crafted and the clean images once more in training mode, which moves running statistics.
    Command: `satbench train cifar10-awp`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as("cifar10-awp", "awp", **BATCH, **{"method.step_size": STEP})


def cifar10_trades_awp() -> TrainConfig:
    """Adversarial weight perturbation around TRADES, gamma 0.005 from the tenth epoch on, on WRN-34-10.

    Paper: Wu et al. 2020 (arXiv 2004.05884): beta 6, 200 epochs, 0.1 divided by ten from the 100th and 150th on, decay
    5e-4. Their `--awp-warmup 10` counts epochs from 1, so nine have no weight perturbation.
    Departures: those of all recipes; their images are not normalised, their attack's start is not cut at the box
    before its first gradient, and their loss passes the clean images twice, which moves running statistics.
    Command: `satbench train cifar10-trades-awp`.
    Hardware: one GPU of 24 GB or more. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-trades-awp",
        "awp",
        **WIDE,
        **BLACK,
        **{
            "method.method": "trades",
            "method.step_size": STEP,
            "method.gamma": 0.005,
            "method.warmup_epochs": 9,
            "schedule.milestones": [99 / 200, 149 / 200],
        },
    )


def cifar10_fgsm_rs() -> TrainConfig:
    """Fast adversarial training: one step of 1.25 eps from a random start, 15 epochs, rolled back on a collapse.

    Paper: Wong et al. 2020 (arXiv 2001.03994): triangle to 0.2, decay 5e-4, half precision, here bfloat16.
    Departures: those of all recipes; their projected shortcuts start from the block's input, their momentum falls from
    0.9 to 0.8 while the learning rate rises and back, their precision is apex O2, their alarm ends the run only with
    `--early-stop`, and they take the last weights.
    Command: `satbench train cifar10-fgsm-rs`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-fgsm-rs",
        "fgsm_rs",
        schedule="triangle",
        **BLACK,
        **BATCH,
        **{"epochs": 15, "optimizer.lr": 0.2, "speed.precision": "bf16", "stop.collapse": "rollback"},
    )


def cifar10_free() -> TrainConfig:
    """Free adversarial training with 8 replays on WRN-34-10 with leaky ReLU of slope 0.1.

    Paper: Shafahi et al. 2019 (arXiv 1904.12843): 80,000 updates, 0.1 divided by ten at 40,000 and 60,000, decay 2e-4;
    here 30 epochs of 8 replays, some 79,900 updates, with the drops at half and three quarters.
    Departures: those of all recipes; their shortcuts pool and add channels of zeros where these are 1x1 convolutions,
    each of their images is standardised by itself, and crops are out of images with 2 black pixels around, here 4.
    Command: `satbench train cifar10-free`.
    Hardware: one GPU of 24 GB or more. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-free",
        "free",
        activation="leaky_relu:negative_slope=0.1",
        **WIDE,
        **BLACK,
        **{
            "method.replays": 8,
            "epochs": 30,
            "schedule.milestones": [0.5, 0.75],
            "optimizer.weight_decay": 2e-4,
            "optimizer.decay": "filters",
        },
    )


def cifar10_n_fgsm() -> TrainConfig:
    """N-FGSM: one step from noise of twice the radius, never projected to the ball.

    Paper: de Jorge et al. 2022 (arXiv 2202.01181): PreActResNet-18, 30 epochs, triangle to 0.2, decay 5e-4.
    Departures: those of all recipes; their projected shortcuts start from the block's input, their momentum falls from
    0.9 to 0.8 while the learning rate rises and back, and they take the last weights.
    Command: `satbench train cifar10-n-fgsm`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    changes = {"epochs": 30, "optimizer.lr": 0.2}
    return cifar10_as("cifar10-n-fgsm", "n_fgsm", schedule="triangle", **BLACK, **BATCH, **changes)


def cifar10_gradalign() -> TrainConfig:
    """FGSM with gradient alignment, lambda 0.2 for 8/255.

    Paper: Andriushchenko & Flammarion 2020 (arXiv 2007.02617): PreActResNet-18, 30 epochs, peak 0.3 at 40% of the run.
    Departures: those of all recipes; their network's projected shortcuts start from the block's input, it has no batch
    norm and activation before the pooling and other initial weights, their images are not normalised, the gradient of
    FGSM goes through max(min(x, 1), 0), where pixels of exactly 0 or 1 have a share of it that depends on torch's
    version, and their half precision is apex O1.
    Command: `satbench train cifar10-gradalign`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-gradalign",
        "gradalign",
        schedule="triangle",
        **BLACK,
        **BATCH,
        **{"schedule.peak": 0.4, "epochs": 30, "optimizer.lr": 0.3},
    )


def cifar10_ssl_at() -> TrainConfig:
    """SimCLR, then an epoch of self-supervised adversarial fine-tuning with its authors' settings: a reconstruction.

    Paper: Chen et al. 2020 (ICASSP, arXiv 1911.06470). Their notebook fine-tunes by 400 updates on 100 images each,
    with Adam at 1e-4, decay 1e-5, PGD-10 with steps of 0.005 within 0.03 of normalised images, which is 0.00125 and
    0.0075 of those in [0, 1] for a deviation of 0.25, and reads out by kNN with k = 75.
    Not theirs: method and pretraining, which is of an AMDIM encoder there; that all images take part, not those alone
    that the attack broke; 425 updates, by AdamW with other betas; what all recipes differ in.
    Command: `satbench train cifar10-ssl-at`, then `satbench readout RUN knn --out knn.safetensors`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    tuning = {"optimizer.name": "adamw", "optimizer.lr": 1e-4, "optimizer.weight_decay": 1e-5, "schedule": "constant"}
    changes = {
        "threat.eps": 0.0075,
        "method.step_size": 0.00125,
        "epochs": 201,
        "batch_size": 100,
        "schedule": "cosine",
        "measure.evaluators": "knn",
        "measure.every": 20,
        "stages": (StageConfig(epochs=200, changes={"method": "simclr"}), StageConfig(changes=tuning)),
    }
    return cifar10_as("cifar10-ssl-at", "ssl_at", **changes)


def cifar10_ema() -> TrainConfig:
    """TRADES with an exponential moving average of the weights, on Swish WRN-28-10.

    Paper: Gowal et al. 2020 (arXiv 2010.03593), in the settings of Rebuffi et al. 2021 (arXiv 2103.01946) without
    further data: 400 epochs of batches of 1,024, Nesterov, peak 0.4, label smoothing 0.1, decay of the average 0.995.
    Their one-cycle has a warm-up of 2.5% and falls as a cosine.
    Command: `satbench train cifar10-ema`.
    Hardware: eight GPUs. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-ema",
        "trades",
        activation="silu",
        model="wide-resnet",
        schedule="cosine",
        averaging="ema",
        **BLACK,
        **{
            "optimizer.decay": "filters",
            "model.depth": 28,
            "model.width": 10,
            "method.step_size": STEP,
            "epochs": 400,
            "batch_size": 1024,
            "optimizer.lr": 0.4,
            "optimizer.nesterov": True,
            "optimizer.warmup_epochs": 10,
            "label_smoothing.amount": 0.1,
            "label_smoothing.over": "all",
        },
    )


def cifar10_swa() -> TrainConfig:
    """PGD-10 adversarial training with the mean of the weights from epoch 55 on.

    Paper: Chen et al. 2021 (ICLR): 200 epochs, drops at 50 and 150, decay 5e-4.
    Departures: those of all recipes; their distillation is left out, they hold out 5,000 images and not 15%, and the
    averaged network gets its batch norm statistics from augmented images, here from the images as they are.
    Command: `satbench train cifar10-swa`.
    Hardware: one GPU. Time: not yet measured. Expected: not yet measured.
    """
    return cifar10_as(
        "cifar10-swa",
        "pgd_at",
        averaging="swa",
        **BLACK,
        **BATCH,
        **{"averaging.start": 55, "schedule.milestones": [50 / 200, 150 / 200], "method.step_size": STEP},
    )
