"""Adversarial training of the network, in a minute on a CPU: writes digitnet/weights.safetensors."""

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from digitnet.model import WEIGHTS, Digitnet
from satbench.data import load_images

EPS = 0.15
STEPS = 5
EPOCHS = 60
BATCH = 64


def attacked(network: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The images after a few steps of PGD in the ball of radius `EPS`."""
    found = (x + torch.empty_like(x).uniform_(-EPS, EPS)).clamp(0, 1)
    for _ in range(STEPS):
        found.requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(network(found), y), found)
        found = found.detach() + 2 * EPS / STEPS * slope.sign()
        found = found.clamp(x - EPS, x + EPS).clamp(0, 1)
    return found


def main() -> None:
    torch.manual_seed(0)
    images = load_images("digits", "train")
    x, y = images.in_memory().x, images.y
    network = Digitnet()
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01)
    steps = EPOCHS * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for epoch in range(EPOCHS):
        for rows in torch.randperm(len(x)).split(BATCH):
            loss = F.cross_entropy(network(attacked(network, x[rows], y[rows])), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1} of {EPOCHS}: loss {loss.item():.2f}")
    save_file(network.state_dict(), WEIGHTS)


if __name__ == "__main__":
    main()
