"""RobustBench's model-info JSON: read as published figures, and written of what was measured here.

The format is that of the folder `model_info/DATASET/THREAT/NAME.json` of RobustBench 1.1 (Croce et al. 2021, arXiv
2010.09670): figures are percent as text, `external` is the robust accuracy of an evaluation that is lower than
AutoAttack's, and the norm is the name of the folder alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from satbench.core.eps import NORMS, Threat, format_eps, stated_threat
from satbench.core.errors import BadInput
from satbench.core.lookup import nearest
from satbench.core.names import path_part
from satbench.core.parsing import parsed
from satbench.core.strict_json import read_json
from satbench.reporting.published import ROUNDING, PublishedLine
from satbench.reporting.summary import Row
from satbench.results.metrics import WORST, wilson

MARKS = ("clean_acc", "autoattack_acc")  # fields by which the format is recognised
TO_FILL = ("link", "name", "authors", "venue", "reported")  # what no run knows
SPLITS = {"imagenet": "val"}  # on which it evaluates; else the test set
STANDARD = "standard"  # the version of AutoAttack that the format is about


def _percent(value: object) -> object:
    """A number from text; None where no figure is stated, as for "---"."""
    if isinstance(value, str):
        return value.strip() if any(one.isalnum() for one in value) else None
    return value


Percent = Annotated[Annotated[float, Field(ge=0, le=100)] | None, BeforeValidator(_percent)]
Text = str | None


class ModelInfoFile(BaseModel):
    """The fields of the format that are shown; others are kept in the file and not read."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    dataset: str
    eps: str | None
    clean_acc: Percent
    autoattack_acc: Percent = None
    external: Percent = None
    reported: Percent = None
    architecture: Text = None
    name: Text = None
    authors: Text = None
    venue: Text = None
    link: Text = None
    additional_data: bool = False
    number_forward_passes: int = 1
    unreliable: bool = False
    footnote: Text = None


@dataclass(frozen=True)
class PublishedModel:
    """Accuracies in percent of a network as RobustBench publishes them; none was measured here."""

    model: str
    threat: Threat
    info: ModelInfoFile

    @property
    def place(self) -> str:
        """Where the file lies below a folder of such files, as in RobustBench's own."""
        kind, colon, path = self.info.dataset.partition(":")
        return f"{kind}{f'-{path_part(path)}' if colon else ''}/{self.threat.norm}/{self.model}.json"


def is_model_info(raw: object) -> bool:
    """Whether JSON is of this format, by its fields."""
    return isinstance(raw, dict) and all(mark in raw for mark in MARKS) and "dataset" in raw


def read_model_info(path: Path, norm: str | None = None) -> PublishedModel:
    """The figures in a file; the norm is that of the folder around it, or `norm`.

    Raises `BadInput`, naming the field, for a file that is not of the format or states no radius, and where the norm
    is unknown.
    """
    advice = "give a model-info file of RobustBench, as in model_info/cifar10/Linf"
    try:
        raw = read_json(path)
    except BadInput:
        raise
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} is missing or damaged ({type(error).__name__}); {advice}") from None
    info = parsed(ModelInfoFile, raw, str(path), advice)
    if norm is not None and norm not in NORMS:
        raise BadInput(f"--norm {norm} is unknown; {nearest(norm, NORMS)}")
    chosen = norm or path.resolve().parent.name
    if chosen not in NORMS:
        raise BadInput(f"{path} does not state its norm, and lies in no folder named {' or '.join(NORMS)}; give --norm")
    if info.eps is None:
        raise BadInput(f"{path} states no radius in the field eps; add one, such as 8/255")
    return PublishedModel(path.stem, parsed(Threat, {"norm": chosen, "eps": info.eps}, str(path)), info)


def published_line(one: PublishedModel, rows: Sequence[Row]) -> PublishedLine:
    """The figures as a page shows them, with where they lie against a run of a network of that name in `rows`."""
    info = one.info
    robust, attack = _robust(info)
    paper = [info.name, info.authors, info.venue, info.link]
    remarks = ["extra training data" if info.additional_data else "", "called unreliable" if info.unreliable else ""]
    return PublishedLine(
        dataset=info.dataset,
        split=SPLITS.get(info.dataset, "test"),
        norm=one.threat.norm,
        eps=format_eps(one.threat.eps),
        model=one.model,
        clean=info.clean_acc,
        robust=robust,
        attack=attack,
        source="; ".join(filter(None, (", ".join(["RobustBench", *filter(None, paper)]), *remarks, info.footnote))),
        state=_state(one, rows),
    )


def _state(one: PublishedModel, rows: Sequence[Row]) -> str:
    """Where AutoAttack's published figure lies against the interval of a run of the standard version."""
    here = [row for row in rows if row.label.rpartition("/")[2] == one.model and row.dataset == one.info.dataset]
    here = [row for row in here if row.norm == one.threat.norm and abs(row.eps - one.threat.eps) < 1e-9]
    met = [row for row in here if len(row.attacks) == 1 and _is_standard(row)]
    percent = one.info.autoattack_acc
    if percent is None or not met:
        return "not measured here"
    low, high = wilson(met[0].robust, met[0].n)
    if percent < 100 * low - ROUNDING:
        return "measured higher"
    return "measured lower" if percent > 100 * high + ROUNDING else "inside the measured interval"


def _robust(info: ModelInfoFile) -> tuple[float | None, str]:
    """The figure that RobustBench ranks by, and what gave it."""
    if info.external is not None:
        return info.external, "an evaluation that is lower than AutoAttack"
    return info.autoattack_acc, "AutoAttack"


def chosen_rows(rows: Sequence[Row], label: str, threat: str | None) -> list[Row]:
    """The rows of one network on one data set at one threat.

    label: of the network, or of its model on the pages where that is of one network, or the start of the network's
    digest, from 8 characters. threat: written Linf:8/255; None where the network met one. Raises `BadInput` where none
    or several fit.
    """
    here = [row for row in rows if label in _names(row) or (len(label) >= 8 and _digits(row).startswith(label))]
    if not here:
        raise BadInput(
            f"no network is called {label!r}; {nearest(label, {name for row in rows for name in _names(row)})}"
        )
    if len({row.network for row in here}) > 1:
        digests = sorted({_digits(row)[:12] for row in here})
        raise BadInput(
            f"{len(digests)} networks are called {label!r}; give the start of a digest: {', '.join(digests)}"
        )
    single = [row for row in here if not row.threats]
    if threat is not None:
        asked = stated_threat(threat, "--threat")
        single = [row for row in single if row.norm == asked.norm and abs(row.eps - asked.eps) < 1e-9]
    places = sorted({(row.dataset, row.split, row.loader or "", row.norm, row.eps) for row in single})
    if len(places) != 1:
        met = ", ".join(sorted({f"{row.norm}:{format_eps(row.eps)}" for row in here if not row.threats}))
        raise BadInput(f"{label!r} was measured at {len(places)} such threats; give one with --threat: {met}")
    return single


def _names(row: Row) -> set[str]:
    """The label of a network, and what the pages call its model."""
    return {row.label, f"{row.recipe} {row.activation}"} if row.recipe else {row.label}


def _digits(row: Row) -> str:
    return row.model_digest.removeprefix("sha256:")


def model_info_of(rows: Sequence[Row]) -> dict[str, Any]:
    """The format's fields of one network at one threat, of which `rows` are all; see `TO_FILL` for what is empty.

    Accuracies are rounded down. `external` is the worst case over several attacks, where it is lower than AutoAttack's.
    Raises `BadInput` where the network did not meet the standard AutoAttack.
    """
    standard = [row for row in rows if len(row.attacks) == 1 and _is_standard(row)]
    if not standard:
        named = f"{rows[0].label} at {rows[0].norm} {format_eps(rows[0].eps)}"
        raise BadInput(
            f"{named} did not meet AutoAttack in its standard version, whose accuracy the format states; "
            "run `satbench eval --attack autoattack`"
        )
    row = max(standard, key=lambda one: one.n)
    lower = [one for one in rows if one.attack == WORST and one.robust * row.n < row.robust * one.n]
    said: dict[str, Any] = {
        "link": "",
        "name": "",
        "authors": "",
        "additional_data": row.extra_data is not None,
        "number_forward_passes": max(row.draws),
        "dataset": row.dataset,
        "venue": "",
        "architecture": row.label,
        "eps": format_eps(row.eps),
        "clean_acc": _down(row.clean_correct, row.n),
        "reported": "",
        "autoattack_acc": _down(row.robust, row.n),
    }
    note = f"Measured by satbench {row.versions.get('satbench', '')} on {row.n} images of {row.dataset}/{row.split}"
    if lower:
        worst = min(lower, key=lambda one: one.robust / one.n)
        said["external"] = _down(worst.robust, worst.n)
        labels = ", ".join(sorted(one.label for one in worst.attacks))
        note += f"; external is the worst case of {labels} on {worst.n} of them"
    return said | {"footnote": f"{note}.", "unreliable": row.trust.verdict in ("suspicious", "fail")}


def _is_standard(row: Row) -> bool:
    return row.attacks[0].name == "autoattack" and row.attacks[0].params.get("version") == STANDARD


def _down(count: int, n: int) -> str:
    """Percent with two decimals, rounded down."""
    hundredths = 10_000 * count // n
    return f"{hundredths // 100}.{hundredths % 100:02d}"
