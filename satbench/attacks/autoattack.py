"""AutoAttack (Croce & Hein 2020, arXiv 2003.01690) through its reference implementation, the package pyautoattack."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from pyautoattack import AutoAttack as Reference
from torch import Tensor, nn

from satbench.attacks.base import crafting
from satbench.errors import BadInput
from satbench.lookup import nearest
from satbench.seeding import Randomness, integer
from satbench.threat import ThreatModel

VERSIONS = ("standard", "plus", "rand", "custom")
COMPONENTS = ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square")
NEEDS_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}  # the losses divide by the gap to the 3rd, and to the 3rd and 4th logit


@dataclass(frozen=True)
class AutoAttack:
    """The ensemble at its authors' settings; `components`, joined by "+", belong to version "custom" alone.

    Each component attacks what the earlier ones left standing. The seed comes from the run, never from the clock. With
    fewer than ten classes the targeted components take min(9, classes - 1) targets; a component whose loss is undefined
    for the model's few classes is refused by name. Its log lines go to the logger "satbench.autoattack".
    """

    version: str = "standard"
    components: str = ""

    def __post_init__(self) -> None:
        if self.version not in VERSIONS:
            raise BadInput(f"unknown version {self.version!r} of autoattack; {nearest(self.version, VERSIONS)}")
        names = str(self.components).split("+") if self.components else []
        if (self.version == "custom") != bool(names):
            raise BadInput(
                "autoattack takes components with version=custom only: version=custom,components=apgd-ce+square"
            )
        for name in names:
            if name not in COMPONENTS:
                raise BadInput(f"unknown component {name!r} of autoattack; {nearest(name, COMPONENTS)}")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        if not len(x) or threat.eps == 0:
            return x.clone()
        with crafting(model), _undisturbed(x.device):
            with torch.no_grad():
                classes = model(x[:1]).shape[1]
            reference = Reference(
                model,
                attacks=self.components.split("+") if self.components else None,
                device=x.device,
                eps=threat.eps,
                norm=threat.norm,
                seed=integer(randomness),
                version=self.version,
            )
            for name in reference.attacks_to_run:
                needed = NEEDS_CLASSES.get(name, 2)
                if classes < needed:
                    raise BadInput(
                        f"autoattack's {name} needs at least {needed} classes, the model has {classes}; "
                        "use autoattack:version=custom,components=apgd-ce+fab-t+square"
                    )
            for part in (reference, reference.apgd, reference.apgd_targeted):
                part.logger = logging.getLogger("satbench.autoattack")
            for part in (reference.apgd_targeted, reference.fab):
                part.n_target_classes = min(part.n_target_classes, classes - 1)
            x_adv: Tensor = reference.run_standard_evaluation(x, y, batch_size=len(x))[0]
        return x_adv.detach()


@contextmanager
def _undisturbed(device: torch.device) -> Iterator[None]:
    """Keep the global generators and the trace function, which the reference resets, as they were."""
    trace = sys.gettrace()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        sys.settrace(trace)
