"""What a network is measured by while it is trained."""

import torch
from torch import nn

from satbench.attacks import PGD, fgsm
from satbench.core.errors import BadInput
from satbench.data import Images
from satbench.evaluation.compute import measure
from satbench.evaluation.executor import Search
from satbench.methods import Processes
from satbench.models.precision import Autocast
from satbench.numerics.threat import ThreatModel
from satbench.results.metrics import clean_table
from satbench.results.schema import SearchInfo
from satbench.results.training_log import Validated
from satbench.training.config import TrainConfig

BATCH = 256  # images at a time


def validate(
    net: nn.Module, images: Images, config: TrainConfig, device: torch.device, processes: Processes, after: str
) -> Validated:
    """Clean accuracy and accuracy under FGSM and PGD on the validation split, of which every process measures a part.

    The precision is that of the training: with "bf16" the whole network runs in bfloat16, with "bf16-attack" only
    where the attacks search. Raises `BadInput` for logits or gradients that are not finite, naming the update `after`
    which it is.
    """
    part = images.take(range(processes.rank, len(images), processes.count))
    threat = ThreatModel(config.threat.norm, config.threat.eps)
    attacks = [fgsm(), PGD(steps=config.selection_steps)]
    precision = config.speed.precision
    judged = Autocast(net) if precision == "bf16" else net
    half = SearchInfo(form="bf16", precision="bf16")
    search = Search(Autocast(net), half, is_copy=True) if precision == "bf16-attack" else None
    try:
        records = measure(judged, part, attacks, [threat], config.seed, BATCH, device, search).records
    except BadInput as error:
        raise BadInput(f"after {after}: {error}; lower lr where it is NaN or infinite") from None
    broken = {name: group["broken"].to_numpy() for name, group in records.groupby("attack", sort=False)}
    by_fgsm, by_pgd = (broken[attack.info.id] for attack in attacks)
    counts = [
        len(part),
        int(clean_table(records).sum()),
        int((~by_fgsm).sum()),
        int((~by_pgd).sum()),
        int((~by_fgsm & by_pgd).sum()),
    ]
    n, clean, stood_fgsm, stood_pgd, pgd_alone = processes.total(counts, device)
    return Validated(n=n, clean=clean / n, fgsm=stood_fgsm / n, robust=stood_pgd / n, broken_by_pgd_alone=pgd_alone)
