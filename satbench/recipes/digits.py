"""Runs on the embedded 8x8 digits, for a laptop."""

from satbench.training.config import Named, OptimizerConfig, ThreatConfig, TrainConfig


def digits_sat() -> TrainConfig:
    """Smooth adversarial training with PGD-10 and SiLU on a small convnet; `--activation relu` is its ReLU twin.

    Paper: Xie et al. 2020 (arXiv 2006.14536), whose single step is here ten, as in the field's reference runs.
    Command: `satbench train digits-sat`. Expected accuracy: `leaderboards/digits-Linf-0.2.md`, measured.
    """
    return TrainConfig(
        recipe="digits-sat",
        dataset="digits",
        model=Named(name="cnn-small", params={"width": 8}),
        activation="silu",
        method=Named(name="pgd_at", params={"steps": 10}),
        threat=ThreatConfig(norm="Linf", eps=0.2),
        epochs=20,
        batch_size=128,
        optimizer=OptimizerConfig(name="sgd", lr=0.2),
    )


def digits_standard() -> TrainConfig:
    """The same run on clean images, the lower reference row. Command: `satbench train digits-standard`."""
    return digits_sat().with_values({"recipe": "digits-standard", "method": "standard"})


def digits_quick() -> TrainConfig:
    """A few epochs of `digits-sat` with a cheaper adversary, the suite of `satbench check`."""
    return digits_sat().with_values({"recipe": "digits-quick", "method.steps": 4, "epochs": 10})
