"""Which networks are seeds of one model, and what each model is called in tables."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from satbench.reporting.names import strength, threat_name
from satbench.reporting.summary import Row
from satbench.results.metrics import WORST
from satbench.results.schema import ModelInfo
from satbench.specs.attack import ids

Key = tuple[str, ...]
_SEED = re.compile(r"[\s,_/-]*\(?seed[\s=_-]*\d+\)?$", re.IGNORECASE)


@dataclass(frozen=True, order=True)
class ModelLine:
    """A model as tables show it: equal for the seeds of one model, different for any two models.

    What is unknown, or differs between the networks of a group, is "".
    """

    model: str
    activation: str
    method: str
    trained_for: str


def model_lines(networks: Iterable[ModelInfo]) -> dict[ModelInfo, ModelLine]:
    """The line of each network, decided over all networks that are shown together.

    Networks are seeds of one model if satbench trained them from configs that differ in the seed alone (equal `config`
    and name, different `seed`), or if the user declared them as one `group`. Every other network has a line of its own.
    So have two networks of one config and one seed, such as a training repeated on another machine, and one network
    that is in a group under two names: a mean would count them twice. Lines that would read the same also show a short
    digest: of the config where the line has seeds, else of the weights.
    """
    known = list(dict.fromkeys(networks))
    seeds = {network: _seed_of(network) for network in known}
    found = Counter(seeds.values())
    members: dict[Key, list[ModelInfo]] = {}
    for network, seed in seeds.items():
        key = seed[0] if seed and found[seed] == 1 else ("network", network.model_dump_json())
        members.setdefault(key, []).append(network)
    lines = {key: _line(key, group) for key, group in members.items()}
    same = Counter(lines.values())
    return {
        network: line if same[line] == 1 else replace(line, model=f"{line.model} ({_short(key, network)})")
        for key, line in lines.items()
        for network in members[key]
    }


def _seed_of(network: ModelInfo) -> tuple[Key, str] | None:
    """What all seeds of the network's model share, and what no two of them do; None where it is no seed."""
    if network.group is not None:
        return ("group", network.group), network.digest
    if network.config is not None and network.seed is not None:
        return ("config", network.config, network.recipe or unseeded(network.label)), str(network.seed)
    return None


def _line(key: Key, group: Sequence[ModelInfo]) -> ModelLine:
    def common(values: Iterable[str | None]) -> str:
        different = set(values)
        return different.pop() or "" if len(different) == 1 else ""

    own = group[0].recipe or group[0].label
    return ModelLine(
        own if key[0] == "network" else key[-1],
        common(one.activation for one in group),
        common(one.method for one in group),
        common(_threat(one) for one in group),
    )


def _short(key: Key, network: ModelInfo) -> str:
    if key[0] == "group":
        return "group"
    return f"config {_digits(key[1])}" if key[0] == "config" else network.short[:8]


def _digits(digest: str) -> str:
    return digest.removeprefix("sha256:")[:8]


def _threat(network: ModelInfo) -> str:
    return threat_name(network.trained_for.norm, network.trained_for.eps) if network.trained_for else ""


def network_names(networks: Iterable[ModelInfo]) -> dict[ModelInfo, str]:
    """The label of each network; where several have the same, with its seed, with its recipe too, or with a digest.

    The short digest of the weights is for networks of equal label, seed and recipe, or without a seed.
    """
    known = set(networks)
    same = Counter(network.label for network in known)
    seeds = Counter((network.label, network.seed) for network in known)
    recipes = Counter((network.label, network.seed, network.recipe) for network in known)

    def name(one: ModelInfo) -> str:
        if same[one.label] == 1:
            return one.label
        seeded = f"{one.label} seed {one.seed}"
        if one.seed is not None and seeds[one.label, one.seed] == 1:
            return seeded
        if one.seed is not None and one.recipe and recipes[one.label, one.seed, one.recipe] == 1:
            return f"{seeded}, {one.recipe}"
        return f"{one.label} ({one.short[:8]})"

    return {one: name(one) for one in known}


def unseeded(label: str) -> str:
    """A label without a seed at its end: `cnn silu seed 3` is `cnn silu`."""
    return _SEED.sub("", label) or label


def group_rows(rows: Sequence[Row], reference: str = "") -> list[tuple[ModelLine, list[Row]]]:
    """The rows of each line of the accuracy table: one model, images, threat and attack; a row for each seed.

    Of lines that differ in their activation alone, that of the `reference` is the first.
    """
    lines = model_lines(row.network for row in rows)
    groups: dict[tuple[object, ...], tuple[ModelLine, list[Row]]] = {}
    for row in sorted(rows, key=lambda row: _reading_order(row, lines[row.network], reference)):
        line = lines[row.network]
        place = (row.dataset, row.split, row.loader, line, row.norm, row.eps, row.threats, row.attack, ids(row.attacks))
        groups.setdefault(place, (line, []))[1].append(row)
    return list(groups.values())


def _reading_order(row: Row, line: ModelLine, reference: str) -> tuple[object, ...]:
    place = (row.dataset, row.split, row.loader or "", line.model, line.method, line.trained_for)
    threat = (row.norm, row.eps, [(one.norm, one.eps) for one in row.threats])
    attack = (strength(row.attacks), row.attack == WORST, row.attack, ids(row.attacks))
    seed = -1 if row.seed is None else row.seed
    activation = (line.activation != reference, line.activation)
    return (*place, *threat, *attack, *activation, seed, row.model_digest, row.label)
