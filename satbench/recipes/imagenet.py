"""Smooth adversarial training on ImageNet after its authors' released code, and its ReLU baseline."""

from satbench.training.config import TrainConfig
from satbench.training.settings import Named, OptimizerConfig, ThreatConfig


def _resnet50(name: str, activation: str) -> TrainConfig:
    return TrainConfig(
        recipe=name,
        dataset="imagenet",
        image_size=224,
        model=Named(name="resnet50"),
        activation=activation,
        method=Named(name="pgd_at", params={"steps": 1}),
        threat=ThreatConfig(norm="Linf", eps=4 / 255),
        epochs=100,
        batch_size=1024,
        optimizer=OptimizerConfig(name="sgd", lr=0.4, momentum=0.9, nesterov=True, weight_decay=1e-4, warmup_epochs=5),
        augment="random-resized-crop",
        schedule=Named(name="piecewise", params={"milestones": [0.3, 0.6, 0.9]}),
    )


def imagenet_sat_resnet50() -> TrainConfig:
    """Smooth adversarial training of ResNet-50 with SiLU: one step of length 4/255 from a random start, 100 epochs.

    Paper: Xie et al. 2020 (arXiv 2006.14536). The optimizer is that of their released loop: 0.1 for 256 images, a
    warm-up of five epochs, divided by ten at 30, 60 and 90, decay 1e-4 on filters and matrices.
    Departures: the warm-up starts at 0 and not at 0.1, images are normalised by mean and deviation and not to [-1, 1],
    crops are resized bilinearly and not bicubically, the attack's start is cut at the box, and label smoothing 0.1,
    colour and lighting jitter and the attack's start at the image itself with probability 0.2 are left out. 1% of the
    images is held out. The attack's settings are those of the paper; in the code they are flags without values.
    Command: `satbench train imagenet-sat-resnet50`.
    Hardware: eight GPUs, `torchrun --nproc-per-node 8 -m satbench train imagenet-sat-resnet50`. Time: not yet measured.
    Expected: not yet measured.
    """
    return _resnet50("imagenet-sat-resnet50", "silu")


def imagenet_relu_resnet50() -> TrainConfig:
    """The ReLU baseline of `imagenet-sat-resnet50`, equal to it in everything but the activation.

    Paper: Xie et al. 2020 (arXiv 2006.14536).
    Command: `satbench train imagenet-relu-resnet50`.
    Hardware: eight GPUs. Time: not yet measured. Expected: not yet measured.
    """
    return _resnet50("imagenet-relu-resnet50", "relu")
