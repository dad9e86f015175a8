"""Which comparisons a study planned to test; everything else is described, without a p-value."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from satbench.reporting.claims_file import CLEAN, Plan
from satbench.reporting.comparison import DESCRIBED, PRIMARY, SECONDARY, Comparison, Role
from satbench.specs.attack import AttackInfo
from satbench.specs.names import parse_attack

PLAN_NOTE = (
    "Tested is what was planned: the primary comparison and the secondary ones. All other differences are described, "
    "without a p-value."
)


def with_roles(found: Sequence[Comparison], plan: Plan, attacks: Mapping[str, AttackInfo]) -> list[Comparison]:
    """The comparisons with their roles in the plan, the primary ones first, then the secondary ones.

    attacks: what is known of each attack by its id.
    """
    marked = [replace(one, role=_role(one, plan, attacks)) for one in found]
    return [one for role in (PRIMARY, SECONDARY, DESCRIBED) for one in marked if one.role == role]


def _role(one: Comparison, plan: Plan, attacks: Mapping[str, AttackInfo]) -> Role:
    is_plain = one.of[0] == one.against[0] and " [" not in one.of[0]
    if one.threat is None:
        return SECONDARY if is_plain and CLEAN in plan.secondary else DESCRIBED
    if one.threat != (plan.threat.norm, plan.threat.eps) or len(one.attacks) != 1:
        return DESCRIBED
    info = attacks[one.attacks[0]]
    if _is(plan.primary, info):
        return PRIMARY if is_plain else SECONDARY
    return SECONDARY if is_plain and any(_is(name, info) for name in plan.secondary if name != CLEAN) else DESCRIBED


def _is(text: str, info: AttackInfo) -> bool:
    """Whether the attack is the one that is written so."""
    name, params = parse_attack(text)
    return info.name == name and all(key in info.params and info.params[key] == params[key] for key in params)
