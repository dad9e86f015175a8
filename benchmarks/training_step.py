"""What the trainer's step costs beside a bare hand-written loop with the same passes.

    python benchmarks/training_step.py [--rounds 15] [--steps 20]

Both train the same network by PGD-10 on the same batches, in turns, one thread. The figure is the ratio of CPU times,
round by round; below 1.15 is the goal. Prints the median with its extremes and the passes a sample and step.
"""

import argparse
import statistics
import time

import torch
from torch import nn
from torch.nn import functional

from satbench.data import load_images
from satbench.methods.pgd_at import PGDAT
from satbench.models import ModelSpec, build_model
from satbench.threat import ThreatModel
from satbench.training.trainer import step

EPS, PGD_STEPS, BATCH, LR = 0.2, 10, 64, 0.05


def network(architecture: str, width: int) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelSpec(architecture, "silu", 10, 1, 8, (0.3,), (0.38,), {"width": width}))


def optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9, nesterov=True, weight_decay=5e-4)


def bare_step(model: nn.Module, opt: torch.optim.Optimizer, x: torch.Tensor, y: torch.Tensor) -> None:
    """K input gradients in eval mode with frozen weights, then one full update; nothing else."""
    model.eval()
    model.requires_grad_(False)
    x_adv = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(PGD_STEPS):
        x_adv.requires_grad_()
        (grad,) = torch.autograd.grad(functional.cross_entropy(model(x_adv), y, reduction="sum"), x_adv)
        x_adv = (x_adv.detach() + 0.25 * EPS * grad.sign()).clamp(x - EPS, x + EPS).clamp(0, 1)
    model.requires_grad_(True)
    model.train()
    loss = functional.cross_entropy(model(x_adv), y)
    opt.zero_grad(set_to_none=True)
    loss.backward()
    opt.step()
    loss.item()


def cpu_seconds(run: object, rounds: int) -> float:
    started = time.process_time()
    for number in range(rounds):
        run(number)  # type: ignore[operator]
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images("digits", "train")
    x, y = images.x[:BATCH], images.y[:BATCH]
    method, threat = PGDAT(steps=PGD_STEPS), ThreatModel("Linf", EPS)
    for architecture, width in (("cnn-small", 16), ("mlp", 256), ("preact-resnet18", 16)):
        ours, bare = network(architecture, width), network(architecture, width)
        ours_opt, bare_opt = optimizer(ours), optimizer(bare)
        contenders = {
            "ours": lambda n, m=ours, o=ours_opt: step(m, o, method, threat, x, y, LR, 0, n).item(),
            "bare": lambda n, m=bare, o=bare_opt: bare_step(m, o, x, y),
        }
        for run in contenders.values():
            cpu_seconds(run, 3)
        ratios = []
        for round_number in range(arguments.rounds):
            order = sorted(contenders, reverse=bool(round_number % 2))
            seconds = {name: cpu_seconds(contenders[name], arguments.steps) for name in order}
            ratios.append(seconds["ours"] / seconds["bare"])
        print(
            f"{architecture} width {width}: ours / bare = {statistics.median(ratios):.3f} "
            f"[{min(ratios):.3f}, {max(ratios):.3f}] over {arguments.rounds} rounds of {arguments.steps} steps, "
            f"batch {BATCH}, {method.cost} forward-backward passes a sample and step"
        )


if __name__ == "__main__":
    main()
