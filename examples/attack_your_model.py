"""Attack your own model: a network of plain PyTorch, arrays as images, and the worst case over two attacks.

python examples/attack_your_model.py [FOLDER]
"""

import sys
from pathlib import Path

import torch
from sklearn.datasets import load_digits
from torch import nn

import satbench

DIGITS = load_digits()
X, Y = (DIGITS.images[:, None] / 16).astype("float32"), DIGITS.target


def trained() -> nn.Module:
    """Images (N, 1, 8, 8) in [0, 1] to logits (N, 10), trained on the first 1,300 digits."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.01)
    for _ in range(100):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(torch.tensor(X[:1300])), torch.tensor(Y[:1300])).backward()
        optimizer.step()
    return network


if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/attack-your-model")
    run = satbench.evaluate(
        trained().eval(),
        out=out,
        dataset=(X[1300:1400], Y[1300:1400]),
        attack=["pgd:steps=20", "rapid"],
        eps="0.05,0.1",
        name="my network",
    )
    print(run.summary())
    print(f"trust: {run.manifest.trust.verdict}")
