"""What the trainer's loop costs beside a bare hand-written one with the same passes.

    python benchmarks/training_step.py [--rounds 15] [--steps 20]

Both train the same network by PGD-10 on shuffled digits, in turns, one thread: gather a batch, craft, update, look at
the loss. The figure is the ratio of CPU times, round by round; below 1.15 is the goal. Prints the median with its
extremes and the passes a sample and step.
"""

import argparse
import statistics
import time
from collections.abc import Callable

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


def cpu_seconds(run: Callable[[int, torch.Tensor], None], steps: int, n: int) -> float:
    order = torch.randperm(n)
    started = time.process_time()
    for number in range(steps):
        start = number * BATCH % (n - BATCH)
        run(number, order[start : start + BATCH])
    return time.process_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = load_images("digits", "train")
    x, y = images.x, images.y
    method, threat = PGDAT(steps=PGD_STEPS), ThreatModel("Linf", EPS)
    for architecture, width in (("cnn-small", 16), ("mlp", 256), ("preact-resnet18", 16)):
        ours, bare = network(architecture, width), network(architecture, width)
        ours_opt, bare_opt = optimizer(ours), optimizer(bare)

        def our_loop(
            number: int, rows: torch.Tensor, model: nn.Module = ours, opt: torch.optim.Optimizer = ours_opt
        ) -> None:
            loss = step(model, opt, method, threat, x[rows], y[rows], LR, 0, number)
            if not torch.isfinite(loss):
                raise SystemExit("the loss is not finite")
            loss.item()

        def bare_loop(
            number: int, rows: torch.Tensor, model: nn.Module = bare, opt: torch.optim.Optimizer = bare_opt
        ) -> None:
            bare_step(model, opt, x[rows], y[rows])

        contenders = {"ours": our_loop, "bare": bare_loop}
        for run in contenders.values():
            cpu_seconds(run, 3, len(images))
        ratios = []
        for round_number in range(arguments.rounds):
            order = sorted(contenders, reverse=bool(round_number % 2))
            seconds = {name: cpu_seconds(contenders[name], arguments.steps, len(images)) for name in order}
            ratios.append(seconds["ours"] / seconds["bare"])
        print(
            f"{architecture} width {width}: ours / bare = {statistics.median(ratios):.3f} "
            f"[{min(ratios):.3f}, {max(ratios):.3f}] over {arguments.rounds} rounds of {arguments.steps} steps, "
            f"batch {BATCH}, {method.cost} forward-backward passes a sample and step"
        )


if __name__ == "__main__":
    main()
