"""Small adversarial training on photographs, for one CPU core."""

from satbench.training.config import TrainConfig
from satbench.training.settings import DataConfig, MeasureConfig, Named, OptimizerConfig, SpeedConfig, ThreatConfig


def cifar10_jpeg_sat_small() -> TrainConfig:
    """PreActResNet-18 of width 16 on 1,500 photographs a class, one step of length eps from a random start.

    The recipe of `studies/smooth-vs-relu.yaml`, tuned for ReLU on validation images, see `docs/smooth-vs-relu.md`.
    Paper: Xie et al. 2020 (arXiv 2006.14536), whose settings on small images are not known.
    Command: `satbench train cifar10-jpeg-sat-small`, with `--data-dir DIR`: DIR/cifar10-jpeg holds train/ and test/.
    Hardware: one CPU core. Time: 13 minutes on a core with AVX2, measured, of which 2 are validation.
    Expected: measured with ReLU, 49.0% [47.9, 50.2] clean, 28.3% [27.3, 29.4] under PGD-10, n = 8,000, 15 seeds
    (`reports/smooth-vs-relu`).
    """
    return TrainConfig(
        recipe="cifar10-jpeg-sat-small",
        dataset="cifar10-jpeg:cifar10-jpeg",
        model=Named(name="preact-resnet18", params={"width": 16}),
        activation="relu",
        method=Named(name="pgd_at", params={"steps": 1}),
        threat=ThreatConfig(norm="Linf", eps=8 / 255),
        epochs=5,
        batch_size=128,
        optimizer=OptimizerConfig(name="sgd", lr=0.3),
        augment="crop-flip",
        data=DataConfig(val=2000, train_n=15_000),
        measure=MeasureConfig(every=2),
        speed=SpeedConfig(channels_last=True),
    )
