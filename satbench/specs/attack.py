"""What a run says of an attack: a value, so that no code has to parse its id."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, get_args

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["gradient", "score", "decision", "transfer", "ensemble", "foreign"]
Tier = Literal["attack from another model", "another attack", "PGD", "part of AutoAttack", "rapid", "AutoAttack"]
Parameter = bool | int | float | str | None
Strength = tuple[int, int]  # place of the tier, then effort
TIERS: tuple[Tier, ...] = get_args(Tier)  # from the weakest
WEAKEST: Strength = (0, 0)


class AttackInfo(BaseModel):
    """An attack as the records name it.

    id: names the attack in the records; opaque text.
    name: as the command line spells it: `pgd`, `foolbox:LinfPGD`, `package.module:callable`; for a search around
        another attack the option: `bf16`, `surrogate`, `transfer`.
    params: every parameter with its value.
    unset: the parameters that the id does not show, because they keep the attack as it was before they existed.
    kind: what it asks the judged network for: gradients, scores or decisions; "transfer" attacks another network,
        "ensemble" is made of `stages`, of a "foreign" one it is not known.
    tier: how far it bounds robust accuracy, one of `TIERS`.
    effort: gradient steps in all restarts, 0 where it has no such parameter.
    label: a short name for readers, the same for attacks that differ in lesser parameters.
    wraps: the attack around which it is built.
    stages: the attacks of an ensemble in order, by the ids in the records' column `stage`; also those of an attack
        that others continued.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    name: str
    params: dict[str, Parameter] = {}
    unset: tuple[str, ...] = ()
    kind: Kind
    tier: Tier
    effort: int = Field(default=0, ge=0)
    label: str
    wraps: "AttackInfo | None" = None
    stages: "tuple[AttackInfo, ...]" = ()

    def __hash__(self) -> int:
        return hash(self.id)

    @classmethod
    def foreign(
        cls, id: str, name: str, label: str, params: Mapping[str, Parameter], stages: "tuple[AttackInfo, ...]" = ()
    ) -> "AttackInfo":
        """An attack of which no more is known than its parameters."""
        return cls(
            id=id,
            name=name,
            params=dict(params),
            kind="foreign",
            tier="another attack",
            effort=effort(params),
            label=label,
            stages=stages,
        )

    @property
    def strength(self) -> Strength:
        """Orders evaluations, not models."""
        return TIERS.index(self.tier), self.effort

    @property
    def layers(self) -> "Iterator[AttackInfo]":
        """The attack, the one around which it is built, and so on."""
        yield self
        if self.wraps is not None:
            yield from self.wraps.layers

    @property
    def settings(self) -> dict[str, Parameter]:
        """The parameters that its id shows, those of the attack around which it is built included."""
        inner = {} if self.wraps is None else self.wraps.settings
        return inner | {key: value for key, value in self.params.items() if key not in self.unset}

    @property
    def is_black_box(self) -> bool:
        """Whether it is known to use no gradients; an ensemble, where no stage does."""
        if self.kind == "ensemble":
            return all(stage.is_black_box for stage in self.stages)
        return self.kind in ("score", "decision")


def label_with_counts(name: str, params: Mapping[str, object]) -> str:
    """`name`, its steps where it has that parameter, and its restarts where there are several: `PGD-50x5`."""
    steps, restarts = count(params, "steps"), count(params, "restarts")
    return name + (f"-{steps}" if steps else "") + (f"x{restarts}" if restarts > 1 else "")


def effort(params: Mapping[str, object]) -> int:
    """Gradient steps in all restarts; 0 where there is no such parameter."""
    return count(params, "steps") * max(1, count(params, "restarts"))


def ids(attacks: Iterable[AttackInfo]) -> tuple[str, ...]:
    """The ids of attacks, in order."""
    return tuple(one.id for one in attacks)


def count(params: Mapping[str, object], key: str) -> int:
    """The value of a parameter that counts something, 0 where there is no such parameter."""
    value = params.get(key)
    return value if isinstance(value, int) and value > 0 else 0
