"""The lines of the accuracy table, from which every form of it is written."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction

from satbench.core.eps import format_eps
from satbench.reporting.lines import ModelLine, group_rows
from satbench.reporting.names import display_name, short_names, threat_name
from satbench.reporting.summary import Row, least_trusted
from satbench.results.metrics import UNION, wilson
from satbench.results.schema import Verdict
from satbench.specs.attack import AttackInfo, ids


@dataclass(frozen=True)
class Line:
    """A line of the table, whose fields are the columns of its files; what is unknown is "" or None.

    Accuracies are fractions at full precision: means over seeds, with 95% Wilson intervals on n distinct images.
    """

    model: str  # told apart from every other line, see `lines.model_lines`
    activation: str
    method: str
    trained_for: str
    dataset: str
    split: str
    loader: str
    norm: str
    eps: str  # as people write it
    eps_value: float
    attack: str
    attacks: tuple[AttackInfo, ...]  # what is known of each attack joined by it; written by their ids
    group: str
    digests: tuple[str, ...]  # of the networks, one for each seed
    seeds: int
    n: int
    clean: float
    clean_lo: float
    clean_hi: float
    clean_min: float  # of the lowest seed
    clean_max: float
    robust: float
    robust_lo: float
    robust_hi: float
    robust_min: float
    robust_max: float
    draws: str  # passes in the majority vote of a random network
    weighted: float | None  # by the probability of a correct answer, where draws are several
    weighted_lo: float | None
    weighted_hi: float | None
    forward: float | None  # passes an image
    backward: float | None
    violations: int
    bad_gradients: int
    mixed_numerics: bool
    trust: Verdict
    reasons: tuple[str, ...]  # sentences behind a verdict that is no pass
    next_attacks: tuple[str, ...]
    extra_data: str  # of the training, as "70% npz:generated.npz"

    @property
    def identity(self) -> tuple[str, str, str, str]:
        """The model, as `lines.ModelLine`."""
        return self.model, self.activation, self.method, self.trained_for

    @property
    def name(self) -> str:
        """Model and activation, as sentences call them."""
        return " ".join(filter(None, self.identity[:2]))

    @property
    def threat(self) -> str:
        return f"{self.norm} {self.eps}"


def accuracy_table(rows: Sequence[Row], reference: str = "") -> list[Line]:
    """The lines behind every form of the table: one per model, threat and attack, its seeds joined.

    The order is that of `group_rows`.

    Models are told apart among these rows, so a part of a table is a part of these lines, not the table of some of the
    rows.
    """
    shorts = short_names(attack for row in rows for attack in row.attacks)
    return [_line(line, group, shorts) for line, group in group_rows(rows, reference)]


def _line(line: ModelLine, group: list[Row], shorts: dict[str, str]) -> Line:
    first = group[0]
    n = min(row.n for row in group)
    robust = [Fraction(row.robust, row.n) for row in group]
    clean = [Fraction(row.clean_correct, row.n) for row in group]
    trust = least_trusted(row.trust for row in group)
    clean_mean, clean_lo, clean_hi = _mean(clean, n)
    robust_mean, robust_lo, robust_hi = _mean(robust, n)
    shares = [Fraction(row.weighted) for row in group if row.weighted is not None]
    weighted, weighted_lo, weighted_hi = _mean(shares, n) if len(shares) == len(group) else (None,) * 3
    return Line(
        **asdict(line),
        dataset=first.dataset,
        split=first.split,
        loader=first.loader or "",
        norm=first.norm,
        eps=_eps(first),
        eps_value=first.eps,
        attack=display_name(first.attack, ids(first.attacks), shorts),
        attacks=first.attacks,
        group=first.group or "",
        digests=tuple(row.model_digest for row in group),
        seeds=len(group),
        n=n,
        clean=clean_mean,
        clean_lo=clean_lo,
        clean_hi=clean_hi,
        clean_min=float(min(clean)),
        clean_max=float(max(clean)),
        robust=robust_mean,
        robust_lo=robust_lo,
        robust_hi=robust_hi,
        robust_min=float(min(robust)),
        robust_max=float(max(robust)),
        draws=" + ".join(map(str, sorted({draws for row in group for draws in row.draws}))),
        weighted=weighted,
        weighted_lo=weighted_lo,
        weighted_hi=weighted_hi,
        forward=_passes([(row.forward, row.n) for row in group]),
        backward=_passes([(row.backward, row.n) for row in group]),
        violations=sum(row.violations for row in group),
        bad_gradients=sum(row.bad_gradients for row in group),
        mixed_numerics=any(row.mixed_numerics for row in group),
        trust=trust.verdict,
        reasons=trust.reasons,
        next_attacks=trust.next_attacks,
        extra_data=" + ".join(sorted({str(row.extra_data) for row in group if row.extra_data is not None})),
    )


def _eps(row: Row) -> str:
    if row.norm != UNION:
        return format_eps(row.eps)
    return "of " + ", ".join(threat_name(one.norm, one.eps) for one in row.threats)


def _mean(rates: Sequence[Fraction], n: int) -> tuple[float, float, float]:
    mean = sum(rates, Fraction()) / len(rates)
    return float(mean), *wilson(float(mean * n), n)


def _passes(counts: Sequence[tuple[int | None, int]]) -> float | None:
    """Passes an image, averaged over seeds; None where those of some seed were not counted."""
    known = [Fraction(count, n) for count, n in counts if count is not None]
    return float(sum(known, Fraction()) / len(known)) if len(known) == len(counts) else None
