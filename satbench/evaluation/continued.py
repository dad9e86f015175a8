"""`rapid` continues with AutoAttack where the trust battery doubts the number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from satbench.attacks import Attack
from satbench.attacks.base import Described, stage_infos, stages_of
from satbench.attacks.rapid import Rapid
from satbench.attacks.stages import run_stages
from satbench.evaluation.search import Searched
from satbench.numerics.seeding import Randomness
from satbench.numerics.threat import ThreatModel
from satbench.results.schema import Trust
from satbench.specs.attack import AttackInfo


@dataclass(frozen=True, repr=False)
class Continued(Described):
    """`rapid`, then the attacks of AutoAttack's `version` on the images still standing; its id is that of `rapid`."""

    rapid: Rapid
    version: str

    @property
    def info(self) -> AttackInfo:
        return self.rapid.info.model_copy(update={"stages": stage_infos(self)})

    @property
    def stages(self) -> tuple[Attack, ...]:
        from satbench.attacks.autoattack import AutoAttack

        return (*stages_of(self.rapid), *AutoAttack(self.version).stages)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, randomness: Randomness) -> Tensor:
        return run_stages(self.stages, model, x, y, threat, randomness)


def after_trust(
    attacks: Sequence[Attack], checked: Trust | None, random_network: bool
) -> tuple[list[Attack], list[str]]:
    """The attacks to measure again where the trust battery doubts the number, else none, and a note that says why.

    It doubts where it finds a fault or names an attack to try next. `rapid` is continued with AutoAttack, also where it
    searches on a copy in bfloat16 or with a surrogate derivative: version "rand" for a network that draws random
    numbers, else "standard".
    """
    further = [continued(one, random_network) for one in attacks]
    if further == list(attacks):
        return [], []
    if checked is None:
        return [], ["the trust battery did not run, so nothing decided whether rapid continues with AutoAttack"]
    doubted = [one for one in checked.findings if one.outcome == "fail" or (one.next_attack and one.outcome != "pass")]
    if not doubted:
        return [], []
    name = f"AutoAttack {_version(random_network)}"
    checks = ", ".join(one.check for one in doubted)
    return further, [f"rapid continued with {name}, because the trust battery doubts the number: {checks}"]


def continued(attack: Attack, random_network: bool) -> Attack:
    """The attack with `rapid` in it, if there is one, continued with AutoAttack."""
    if isinstance(attack, Rapid):
        return Continued(attack, _version(random_network))
    if isinstance(attack, Searched):
        return replace(attack, attack=continued(attack.attack, random_network))
    return attack


def _version(random_network: bool) -> str:
    return "rand" if random_network else "standard"
