"""How far predicted costs lie from measured ones, in CPU seconds of one thread.

    python benchmarks/cost.py [--networks digits-relu digits-silu cnn-32 preact-32] [--n 128] [--work DIR]
                              [--attacks pgd:steps=50 rapid autoattack] [--trainings digits cnn-32 preact-32]

`cnn-32` and `preact-32` are a small CNN and a PreActResNet-18 of width 16 for digits enlarged to the size of CIFAR-10's
images, 32x32 pixels in three colours, trained on them for a few epochs first. Each evaluation is predicted, run, and
predicted again, so that both see the same machine; the ratio is of the measured time to the mean prediction.
`--trainings` predicts and runs PGD-10 adversarial and standard trainings. The goal is a ratio from 0.7 to 1.3.
"""

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from satbench.data import load_images
from satbench.evaluation import EvaluationSpec, evaluate
from satbench.recipes import recipe
from satbench.study.cost import Cost, predict_evaluation, predict_training
from satbench.training import TrainConfig, train

ENLARGED = "digits-32.npz"
ENLARGED_NETWORKS: dict[str, dict[str, Any]] = {
    "cnn-32": {"model": "cnn-small"},
    "preact-32": {"model": "preact-resnet18", "model.width": 16},
}


RADIUS = "4/255"  # of enlarged digits, at which some stand after a short training
SHORT = {"method.steps": 1, "epochs": 4}  # of the networks that are evaluated


def enlarge(folder: Path) -> None:
    """Write all digits as images of 32x32 pixels in three colours."""
    splits = [load_images("digits", split).in_memory() for split in ("train", "val", "test")]
    x = functional.interpolate(torch.cat([one.x for one in splits]), size=32, mode="bilinear")
    y = torch.cat([one.y for one in splits])
    np.savez(folder / ENLARGED, x=x.expand(-1, 3, -1, -1).numpy(), y=y.numpy())


def config(kind: str, method: str, **values: Any) -> TrainConfig:
    """A short training on digits, or on enlarged ones."""
    settings: dict[str, Any] = {"method": method, "epochs": 8}
    if kind in ENLARGED_NETWORKS:
        settings |= {"dataset": f"npz:{ENLARGED}", "threat.eps": RADIUS, "epochs": 1, "batch_size": 32}
        settings |= ENLARGED_NETWORKS[kind]
    return recipe("digits-pgd-at").with_values(settings | values)


def line(what: str, predictions: list[Cost], measured: float) -> None:
    seconds = sum(one.seconds for one in predictions) / len(predictions)
    first = predictions[0]
    print(
        f"{what:44} predicted {' '.join(f'{one.seconds:6.1f}' for one in predictions)} s ({first.low:.1f} to "
        f"{first.high:.1f}), measured {measured:6.1f} s, ratio {measured / seconds:.2f}; {first.assumption}",
        flush=True,
    )


def evaluation(model: str, attack: str, threat: str, n: int | None, work: Path) -> None:
    spec = EvaluationSpec(model=model, attacks=(attack,), threats=(threat,), n=n)
    before = predict_evaluation(spec, work, "cpu")
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        run = evaluate(spec, out, data_dir=work, device="cpu")
        measured = time.process_time() - started
        trust = run.manifest.trust
        assert trust is not None
        passes = int(run.records[["forward", "backward"]].to_numpy().sum()) + trust.forward + trust.backward
        stood = 1 - run.records["broken"].mean()
    line(f"{Path(model).name} {attack}", [before, predict_evaluation(spec, work, "cpu")], measured)
    print(f"{'':44} passes predicted {before.passes:,}, counted {passes:,}; {stood:.0%} stood of {len(run.records)}")


def training(kind: str, method: str, work: Path) -> None:
    chosen = config(kind, method)
    before = predict_training(chosen, work, "cpu")
    with tempfile.TemporaryDirectory() as out:
        started = time.process_time()
        train(chosen, out, "cpu", work)
        measured = time.process_time() - started
    line(f"train {kind} {method}", [before, predict_training(chosen, work, "cpu")], measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=["digits-relu", "digits-silu", *ENLARGED_NETWORKS])
    parser.add_argument("--attacks", nargs="*", default=["pgd:steps=50", "rapid", "autoattack"])
    parser.add_argument("--n", type=int)
    parser.add_argument("--trainings", nargs="*", default=[])
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir(), "satbench-cost"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.work.mkdir(parents=True, exist_ok=True)
    enlarge(options.work)
    for kind in options.trainings:
        for method in ("pgd_at", "standard"):
            training(kind, method, options.work)
    for name in options.networks:
        model, threat = name, "Linf:0.2"
        if name in ENLARGED_NETWORKS:
            model, threat = str(options.work / name), f"Linf:{RADIUS}"
            train(config(name, "pgd_at", **SHORT), model, "cpu", options.work)
        for attack in options.attacks:
            evaluation(model, attack, threat, options.n, options.work)


if __name__ == "__main__":
    main()
