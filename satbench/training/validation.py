"""Measures the network on the validation split, whatever the config says is measured."""

from collections.abc import Sequence

import torch

from satbench.core.errors import BadInput
from satbench.core.parsing import parsed
from satbench.data import Images
from satbench.evaluation.executor import Search
from satbench.methods import Processes
from satbench.models.classifier import Classifier
from satbench.models.precision import Autocast
from satbench.numerics.modes import evaluating
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import SearchInfo
from satbench.results.training_log import Validated
from satbench.training.config import TrainConfig
from satbench.training.evaluators import Evaluator, Look


def validate(
    net: Classifier,
    images: Images,
    train: Images,
    config: TrainConfig,
    evaluators: Sequence[Evaluator],
    alarmed_by: tuple[str, str] | None,
    device: torch.device,
    processes: Processes,
    after: str,
) -> Validated:
    """The figures of all evaluators on the images of the validation split, of which every process measures a share.

    The precision is that of the training: with "bf16" the whole network runs in bfloat16, with "bf16-attack" only
    where the attacks search. Raises `BadInput` for logits or gradients that are not finite, naming the update `after`
    which it is.
    """
    precision = config.speed.precision
    half = SearchInfo(form="bf16", precision="bf16")
    look = Look(
        net=net,
        judged=Autocast(net) if precision == "bf16" else net,
        images=images.take(range(processes.rank, len(images), processes.count)),
        train=train,
        threat=ThreatModel(config.threat.norm, config.threat.eps),
        seed=config.seed,
        device=device,
        search=Search(Autocast(net), half, is_copy=True) if precision == "bf16-attack" else None,
        attacks=tuple(one.attack for one in evaluators if one.attack is not None),
    )
    try:
        with evaluating(net):
            values = {name: found for one in evaluators for name, found in one.values(look).items()}
    except BadInput as error:
        raise BadInput(f"after {after}: {error}; lower lr where it is NaN or infinite") from None
    sums = {name: found.sum() for name, found in values.items()}
    if alarmed_by is not None:
        weak, strong = (values[name] for name in alarmed_by)
        sums["alone"] = (weak & ~strong).sum()
    n, *totals = processes.total([len(look.images), *map(float, sums.values())], device)
    found = dict(zip(sums, totals, strict=True))
    alone = found.pop("alone", None)
    figures = {name: total / n for name, total in found.items()}
    measured = {"n": int(n), "figures": figures, "alone": None if alone is None else int(alone)}
    return parsed(Validated, measured, f"measured after {after}")
