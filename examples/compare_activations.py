"""Train one recipe with two activations, attack both networks on the same images, and compare them in pairs.

python examples/compare_activations.py [FOLDER] [EPOCHS]
"""

import sys
from pathlib import Path

import satbench
from satbench.recipes import recipe

ACTIVATIONS = ("silu", "relu")

if __name__ == "__main__":
    out = Path(sys.argv[1] if len(sys.argv) > 1 else "runs/compare-activations")
    epochs = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    runs = {}
    for activation in ACTIVATIONS:
        config = recipe("digits-sat").with_values({"activation": activation, "epochs": epochs})
        satbench.train(config, out / activation, device="cpu")
        runs[activation] = satbench.evaluate(
            str(out / activation), out=out / f"{activation}-eval", attack="pgd:steps=20", eps=0.1, n=200
        )
        print(runs[activation].worst_case().assign(activation=activation))
    comparison = satbench.compare(*runs.values())
    for figure in comparison.figures:
        print(figure.sentence())
