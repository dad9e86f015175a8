"""Runs on the embedded 8x8 digits, for a laptop; each takes seconds to a minute on one CPU core.

Expected clean and robust accuracy of every one of them: `leaderboards/digits-Linf-0.2.md`, measured. They show that a
method runs and what it costs; differences between methods at this size are no evidence about larger ones.
"""

from typing import Any

from satbench.training.config import TrainConfig
from satbench.training.settings import Named, OptimizerConfig, StageConfig, ThreatConfig


def digits_as(name: str, method: str, /, **changes: Any) -> TrainConfig:
    """A small convnet at Linf 0.2 under one schedule, so that the runs differ in their method alone."""
    start = TrainConfig(
        recipe=name,
        dataset="digits",
        model=Named(name="cnn-small", params={"width": 8}),
        activation="silu",
        method=Named(name=method),
        threat=ThreatConfig(norm="Linf", eps=0.2),
        epochs=20,
        batch_size=128,
        optimizer=OptimizerConfig(name="sgd", lr=0.2),
        drop_last=False,  # 54 of 1,078 images would be left out of every epoch
    )
    return start.with_values({"recipe": name, **changes})


CONTRASTIVE = {"activation": "relu", "augment": "affine", "measure.evaluators": "knn:k=10"}


def digits_sat() -> TrainConfig:
    """Smooth adversarial training with PGD-10 and SiLU; `--activation relu` is its ReLU twin.

    Paper: Xie et al. 2020 (arXiv 2006.14536), whose single step is here ten, as in the field's reference runs.
    Command: `satbench train digits-sat`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-sat", "pgd_at", **{"method.steps": 10})


def digits_sat_single_step() -> TrainConfig:
    """Smooth adversarial training as the paper trains: one step of length eps from a random start.

    Paper: Xie et al. 2020 (arXiv 2006.14536).
    Command: `satbench train digits-sat-single-step`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-sat-single-step", "pgd_at", **{"method.steps": 1})


def digits_standard() -> TrainConfig:
    """The same run on clean images, the lower reference row; its best epoch is that of highest clean accuracy.

    Command: `satbench train digits-standard`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-standard", "standard")


def digits_quick() -> TrainConfig:
    """A few epochs of `digits-sat` with a cheaper adversary, the suite of `satbench check`.

    Command: `satbench train digits-quick`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_sat().with_values({"recipe": "digits-quick", "method.steps": 4, "epochs": 10})


def digits_pgd_at() -> TrainConfig:
    """PGD adversarial training with ReLU, the baseline of the field.

    Paper: Madry et al. 2018 (arXiv 1706.06083).
    Command: `satbench train digits-pgd-at`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-pgd-at", "pgd_at", activation="relu")


def digits_trades() -> TrainConfig:
    """TRADES with beta 6. Paper: Zhang et al. 2019 (arXiv 1901.08573).

    Command: `satbench train digits-trades`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-trades", "trades", activation="relu")


def digits_mart() -> TrainConfig:
    """MART with beta 5. Paper: Wang et al. 2020 (ICLR).

    Command: `satbench train digits-mart`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-mart", "mart", activation="relu")


def digits_awp() -> TrainConfig:
    """Adversarial weight perturbation around PGD adversarial training. Paper: Wu et al. 2020 (arXiv 2004.05884).

    Command: `satbench train digits-awp`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    What the source reports does not show: at 440 passes an image (`reports/methods-on-digits`) robust accuracy with
    ReLU is 0.0 [-4.2, 4.2] points from that of `pgd_at`.
    """
    return digits_as("digits-awp", "awp", activation="relu")


def digits_fgsm_rs() -> TrainConfig:
    """Fast adversarial training from a random start, rolled back should it collapse.

    Paper: Wong et al. 2020 (arXiv 2001.03994).
    Command: `satbench train digits-fgsm-rs`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-fgsm-rs", "fgsm_rs", activation="relu", **{"stop.collapse": "rollback"})


def digits_n_fgsm() -> TrainConfig:
    """Single-step training with noise beyond the ball. Paper: de Jorge et al. 2022 (arXiv 2202.01181).

    Command: `satbench train digits-n-fgsm`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-n-fgsm", "n_fgsm", activation="relu")


def digits_gradalign() -> TrainConfig:
    """FGSM with aligned gradients. Paper: Andriushchenko & Flammarion 2020 (arXiv 2007.02617).

    Command: `satbench train digits-gradalign`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-gradalign", "gradalign", activation="relu")


def digits_free() -> TrainConfig:
    """Free adversarial training: 10 epochs of 8 replays. Paper: Shafahi et al. 2019 (arXiv 1904.12843).

    Command: `satbench train digits-free`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    What the source reports does not show: at 440 passes an image, with the rate of `digits-pgd-at`
    (`reports/methods-on-digits`), robust accuracy with ReLU is 43.1 [32.8, 53.5] points below that of `pgd_at`.
    """
    return digits_as("digits-free", "free", activation="relu", **{"method.replays": 8, "epochs": 10})


def digits_ema() -> TrainConfig:
    """PGD adversarial training measured on an exponential moving average of its weights.

    Paper: Gowal et al. 2020 (arXiv 2010.03593); the decay is shorter than theirs, as this run is.
    Command: `satbench train digits-ema`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-ema", "pgd_at", activation="relu", averaging="ema", **{"averaging.decay": 0.95})


def digits_swa() -> TrainConfig:
    """PGD adversarial training measured on the mean of its weights from half of the run on.

    Paper: Izmailov et al. 2018 (arXiv 1803.05407), for adversarial training Chen et al. 2021 (ICLR).
    Command: `satbench train digits-swa`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as("digits-swa", "pgd_at", activation="relu", averaging="swa", **{"averaging.start": 10})


def digits_bag_of_tricks() -> TrainConfig:
    """PGD adversarial training with every trick of the study: counters, smoothing, warm-ups, a smooth activation.

    Paper: Pang et al. 2021 (arXiv 2010.00467). The baseline that it recommends leaves the tricks off, see
    `cifar10-bag-of-tricks`.
    Command: `satbench train digits-bag-of-tricks`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return digits_as(
        "digits-bag-of-tricks",
        "pgd_at",
        activation="softplus",
        schedule="piecewise",
        **{
            "schedule.milestones": [18 / 20, 19 / 20],
            "method.early_stop": [[0, 1], [11, 2], [18, 3]],
            "label_smoothing.amount": 0.1,
            "optimizer.warmup_epochs": 3,
            "threat.warmup_epochs": 3,
        },
    )


def _mlp(name: str, method: str, /, **changes: Any) -> TrainConfig:
    """An MLP at Linf 0.25, which single-step training overfits catastrophically."""
    start = {
        "activation": "relu",
        "model": "mlp",
        "threat.eps": 0.25,
        "batch_size": 64,
        "optimizer.name": "adamw",
        "optimizer.lr": 3e-3,
        "optimizer.weight_decay": 0,
    }
    return digits_as(name, method, **start | changes)


def digits_collapse() -> TrainConfig:
    """FGSM from the image itself on an MLP at eps 0.25, which overfits catastrophically: the alarm ends the run.

    Paper: Wong et al. 2020 (arXiv 2001.03994) describe the effect.
    Command: `satbench train digits-collapse`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    fgsm = {"method.steps": 1, "method.init": "zero"}
    return _mlp("digits-collapse", "pgd_at", **fgsm, **{"epochs": 40, "stop.collapse": "stop"})


def _surrogate(name: str, attacker: bool, optimizer: bool) -> TrainConfig:
    changes = {"surrogate.attacker": attacker, "surrogate.optimizer": optimizer}
    return digits_as(f"digits-surrogate-{name}", "pgd_at", activation="relu", **changes)


def digits_surrogate_none() -> TrainConfig:
    """The backward ablation's control: ReLU with its own derivative. Paper: Xie et al. 2020 (arXiv 2006.14536).

    Command: `satbench train digits-surrogate-none`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return _surrogate("none", attacker=False, optimizer=False)


def digits_surrogate_attacker() -> TrainConfig:
    """ReLU whose derivative is parametric softplus' for the attacker. Paper: Xie et al. 2020 (arXiv 2006.14536).

    Command: `satbench train digits-surrogate-attacker`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return _surrogate("attacker", attacker=True, optimizer=False)


def digits_surrogate_optimizer() -> TrainConfig:
    """ReLU whose derivative is parametric softplus' for the optimizer. Paper: Xie et al. 2020 (arXiv 2006.14536).

    Command: `satbench train digits-surrogate-optimizer`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return _surrogate("optimizer", attacker=False, optimizer=True)


def digits_surrogate_both() -> TrainConfig:
    """ReLU whose derivative is parametric softplus' for both. Paper: Xie et al. 2020 (arXiv 2006.14536).

    Command: `satbench train digits-surrogate-both`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return _surrogate("both", attacker=True, optimizer=True)


def digits_moat() -> TrainConfig:
    """Four epochs of single-step examples, then two of PGD-7, and again, on an MLP at eps 0.25: MOAT, a reconstruction.

    Paper: Wang et al. 2021 (arXiv 2106.15357), of which the abstract was at hand; the stages are satbench's.
    Command: `satbench train digits-moat`. With benign epochs: `--set method.stages=1:benign+3:single+2:multi`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    What the source reports is not decided here: at 440 passes an image (`reports/methods-on-digits`) robust accuracy is
    5.8 [2.1, 9.6] points above that of `pgd_at` with ReLU, 4.8 [1.4, 8.2] with SiLU and 4.8 [-0.9, 10.7] with
    SmoothReLU, and none of these is separable after Holm's correction over 16 methods.
    """
    return _mlp("digits-moat", "moat", epochs=30)


def digits_aft() -> TrainConfig:
    """Standard training of an MLP, then a short fine-tuning by AFT at eps 0.25: AFT-DRA, a reconstruction.

    Paper: Hou et al. 2022 (arXiv 2204.13232), of which the abstract was at hand; every formula is satbench's.
    Command: `satbench train digits-aft`. Fine-tuning alone, of a network that is there: `--set init_from=RUN --set
    stages=null --epochs 20 --set optimizer.lr=1e-3`.
    Hardware: one CPU core. Time: under a minute, measured. Expected: `leaderboards/digits-Linf-0.2.md`, measured.
    What the source aims at does not show against `pgd_at`: at 440 passes an image (`reports/methods-on-digits`) clean
    accuracy with ReLU is -0.5 [-1.3, 0.3] points from it, and robust accuracy 42.5 [34.0, 51.0] below.
    """
    standard = StageConfig(epochs=20, changes={"method": "standard"})
    tuning = StageConfig(changes={"optimizer.lr": 1e-3, "schedule": "cosine"})
    return _mlp("digits-aft", "aft", epochs=40, stages=(standard, tuning))


def digits_simclr() -> TrainConfig:
    """Representations without labels by SimCLR, as `digits-ssl-at` begins; kNN accuracy chooses the best epoch.

    Paper: Chen, Kornblith et al. 2020 (ICML, arXiv 2002.05709).
    Command: `satbench train digits-simclr`, then `satbench readout RUN knn:k=10 --out knn.safetensors` and
    `satbench eval --model knn.safetensors --attack knn-guided`. The last layer of the run itself learns nothing.
    Hardware: one CPU core. Time: under a minute, measured. Expected: of the last epoch, 97.7% [95.9, 98.8] clean and
    0.1% [0.0, 0.8] under `knn-guided:steps=50,restarts=3` on the 450 test images, means of three seeds, measured.
    """
    return digits_as("digits-simclr", "simclr", **CONTRASTIVE, **{"method.temperature": 0.1})


def digits_ssl_at() -> TrainConfig:
    """SimCLR, then fine-tuning that brings clean and crafted images together: self-supervised adversarial training.

    Paper: Chen et al. 2020 (ICASSP, arXiv 1911.06470), a reconstruction: pretraining, loss and attack are satbench's.
    Command: `satbench train digits-ssl-at`, then as `digits-simclr`. Of a network that is there: `--set init_from=RUN
    --set stages=null --epochs 20`.
    Hardware: one CPU core. Time: under two minutes, measured. Expected: of the last epoch, 94.7% [92.2, 96.4] clean and
    25.3% [21.5, 29.5] under `knn-guided:steps=50,restarts=3` on the 450 test images, means of three seeds, measured;
    before the fine-tuning 97.7% and 0.1%. The mean cosine of clean and crafted representations rises from 0.22 to 0.88.
    A linear read-out is not made robust: 6.8% [4.9, 9.6] under PGD-50 with three restarts.
    What the authors find of supervised networks does not show: of the last epochs of `digits-pgd-at`, read out by the
    same kNN, 53.3% [48.7, 57.9] stand; of `digits-standard` and of SimCLR alone 0.1% [0.0, 0.8].
    """
    pretraining = StageConfig(epochs=20, changes={"method": "simclr:temperature=0.1"})
    changes = {"method.temperature": 0.1, "epochs": 40, "stages": (pretraining, StageConfig())}
    return digits_as("digits-ssl-at", "ssl_at", **CONTRASTIVE, **changes)
