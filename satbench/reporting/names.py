"""What attacks and threats are called in front of readers, and how strong a set of attacks is."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from satbench.core.eps import format_eps
from satbench.results.metrics import WORST
from satbench.specs.attack import WEAKEST, AttackInfo, Strength


def short_names(attacks: Iterable[AttackInfo]) -> dict[str, str]:
    """A distinct name for each id: attacks of one label also show the parameters in which they differ."""
    known = {one.id: one for one in sorted(attacks, key=lambda one: one.id)}
    labels = Counter(one.label for one in known.values())
    shorts = {id: one.label if labels[one.label] == 1 else _with_differences(one, known) for id, one in known.items()}
    counts = Counter(shorts.values())
    return {id: short if counts[short] == 1 else id for id, short in shorts.items()}


def _with_differences(attack: AttackInfo, known: Mapping[str, AttackInfo]) -> str:
    """The label, followed by the parameters in which not all attacks of this label agree."""
    settings = [one.settings for one in known.values() if one.label == attack.label]
    keys = dict.fromkeys(key for one in settings for key in one)
    differing = [key for key in keys if len({repr(one.get(key)) for one in settings}) > 1]
    shown = [f"{key}={attack.settings[key]}" for key in differing if key in attack.settings]
    return f"{attack.label} ({', '.join(shown)})" if shown else attack.label


def display_name(attack: str, members: Sequence[str], shorts: Mapping[str, str]) -> str:
    """The name in a table of an attack, or of the worst case over the attacks `members`, all by their ids."""
    if attack != WORST:
        return shorts[attack]
    return f"{WORST} of {', '.join(sorted(shorts[member] for member in members))}"


def threat_name(norm: str, eps: float) -> str:
    """A threat as people write it: `Linf 8/255`."""
    return f"{norm} {format_eps(eps)}"


def strength(members: Iterable[AttackInfo]) -> Strength:
    """How strong the strongest of these attacks is; orders evaluations, not models."""
    return max((member.strength for member in members), default=WEAKEST)


def counted(number: int | str, thing: str) -> str:
    """`1 seed`, `3 seeds`, or `1 to 3 seeds` where the number is a span."""
    return f"{number} {thing}" if str(number) == "1" else f"{number} {thing}s"


def capital(text: str) -> str:
    """The text with its first letter as a capital."""
    return text[:1].upper() + text[1:]


class ClassNames(dict[int, str]):
    """Names of classes by label, from folders in sample ids such as `test/airplane/0001.jpg`, else `class 3`."""

    def __init__(self, ids: Iterable[str], labels: Iterable[int]) -> None:
        pairs = zip(ids, labels, strict=True)
        super().__init__({label: sample.split("/")[1] for sample, label in pairs if sample.count("/") == 2})

    def __missing__(self, label: int) -> str:
        return f"class {label}"
