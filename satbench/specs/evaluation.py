"""What is asked of an evaluation, as a value that a file can hold and another machine can run."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from satbench.core.eps import NORMS, Norm, Threat, parse_eps, stated_threat
from satbench.core.errors import BadInput
from satbench.core.escaping import one_line
from satbench.core.lookup import nearest
from satbench.core.parameters import Count, Index, Steps, Threads, Whole
from satbench.core.parsing import first_wrong
from satbench.specs.attack import AttackInfo

SearchForm = Literal["folded", "plain", "bf16", "surrogate"]
DEFAULTS = 1  # version of the defaults below; raise it with a change of one


class EvaluationSpec(BaseModel):
    """An evaluation. What is None is decided by the network, the images and the machine.

    model: a name as `satbench.zoo.load` takes it; None stands for a network that is yet to be trained.
    checkpoint: other weights for it.
    source: the network to search on in a transfer attack.
    dataset, split, image_size, loader: as `data.load_images` takes them; by default the model's own. `split` is by
        default "test", but "all" for files without a split of their own that the model was not trained on, and "val"
        for ImageNet.
    n: only the first n images.
    attacks: as the command line spells them, or their infos.
    threats: each a `Threat`, written "Linf:8/255" or as a mapping, or a norm alone: the radius that the model was
        trained for.
    seed: decides every random number.
    search: on a private copy with folded batch norms ("folded"), on the network as it is ("plain"), on a copy in
        bfloat16 ("bf16"), or with parametric softplus' derivative for every ReLU's ("surrogate").
    batch_size: images at a time, by default `evaluation.batch.usual_batch_size`.
    draws: passes of which the majority decides, by default 10 for a random network.
    threads: torch's on the CPU, by default `evaluation.batch.usual_threads`.
    save_examples: whether what broke an image is kept, for `verify`.
    trust: whether the quick trust battery checks the network.
    name, group: what tables call the network, and of which networks it is a seed.

    Raises `BadInput` for the first field that is wrong.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str | None = None
    checkpoint: Path | None = None
    source: str | None = None
    dataset: str | None = None
    split: str | None = None
    image_size: Whole | None = None
    loader: str | None = None
    n: Annotated[Whole, Field(strict=True)] | None = None
    attacks: tuple[AttackInfo | str, ...] = ("pgd",)
    threats: tuple[Threat | Norm, ...] = ("Linf",)
    seed: Index = 0
    search: SearchForm = "folded"
    batch_size: Count | None = None
    draws: Steps | None = None
    threads: Threads | None = None
    save_examples: bool = False
    trust: bool = True
    name: str | None = None
    group: str | None = None

    def __init__(self, **fields: Any) -> None:
        try:
            super().__init__(**fields)
        except ValidationError as error:
            field, said, given, is_own = first_wrong(type(self), error)
            option = f"--{field.partition('.')[0].replace('_', '-')}"
            raise BadInput(said if is_own else f"{option} {given!r}: {said}") from None

    @field_validator("attacks", mode="before")
    @classmethod
    def _several(cls, value: object) -> object:
        listed = (value,) if isinstance(value, str | AttackInfo) else value
        if isinstance(listed, list | tuple) and not listed:
            raise BadInput("no attack is given; name one, such as --attack pgd")
        return listed

    @field_validator("threats", mode="before")
    @classmethod
    def _spelled(cls, value: object) -> object:
        listed = value if isinstance(value, list | tuple) else [value]
        if not listed:
            raise BadInput("no threat is given; name one, such as --threat Linf:8/255")
        return tuple(dict.fromkeys(_threat(one) for one in listed))

    @field_validator("model", "source", "dataset", "split", "loader", "name", "group")
    @classmethod
    def _word(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and not value.strip():
            raise BadInput(f"--{info.field_name} is empty; give a word, or leave it out")
        if value is not None and info.field_name in ("name", "group") and value != one_line(value):
            raise BadInput(f"--{info.field_name} {value!r} is not one line of printable characters; give another")
        return value

    @property
    def digest(self) -> str:
        """16 hex digits that name the evaluation, however it was spelled.

        Settings at their default do not count, so that a new setting renames nothing. The attacks must be infos:
        `evaluation.request.resolved` makes them from names.
        """
        ids = [one.id for one in self.attacks if isinstance(one, AttackInfo)]
        assert len(ids) == len(self.attacks), "the attacks are names"
        settings = self.model_dump(mode="json", exclude={"attacks"}, exclude_defaults=True)
        text = json.dumps([DEFAULTS, settings, ids], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def _threat(value: Any) -> Threat | str:
    """A threat from text, a mapping or anything that has `norm` and `eps`; a norm alone stays text."""
    if isinstance(value, str):
        if ":" in value:
            return stated_threat(value)
        if value.strip() not in NORMS:
            raise BadInput(f"threat {value!r} is not NORM:EPS, as Linf:8/255, and no norm; {nearest(value, NORMS)}")
        return value.strip()
    held = dict(value) if isinstance(value, Mapping) else {key: getattr(value, key, None) for key in ("norm", "eps")}
    if set(held) != {"norm", "eps"}:
        raise BadInput(f"threat {held} is not a norm and an eps; write Linf:8/255")
    if held["norm"] not in NORMS:
        raise BadInput(f"unknown norm {held['norm']!r}; {nearest(held['norm'], NORMS)}")
    return Threat(norm=held["norm"], eps=parse_eps(str(held["eps"]), held["norm"]))
