"""Training methods by activations: accuracies, and their differences to one activation and to one method."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from satbench.reporting.ablation import smooth_for
from satbench.reporting.comparison import DESCRIBED, OPEN, UNDECIDED, Comparison
from satbench.reporting.differences import difference_cell, main_question, span
from satbench.reporting.joined import Measured
from satbench.reporting.lines import model_lines
from satbench.reporting.names import counted
from satbench.reporting.rounding import down, inward, outward
from satbench.reporting.table_forms import MISSING
from satbench.results.crossed import Rate, crossed_rate
from satbench.results.schema import ModelInfo

CELL_NOTE = (
    "Intervals in brackets are 95%, over images and seeds: Wilson's on the mean over seeds, with n or, where seeds "
    "differ more than images account for, with as many independent images as give the variance of that mean. Clean "
    "accuracy is on the same images. Intervals of two cells may overlap where their difference, which is of equal "
    "images and seeds, is separable from 0."
)
HOLM_NOTE = (
    "p-values are corrected by Holm's method over the activations of a line where activations are compared, and over "
    "the methods of a column where methods are; not over the whole table."
)


LENGTHS = ("budget.", "epochs=", "measure.", "stages=")  # changes that do not name a row


@dataclass(frozen=True)
class Network:
    """One network, and which of the images it gets right, by sample id: as they are, and under the attack."""

    model: ModelInfo
    clean: "pd.Series[bool]"
    robust: "pd.Series[bool]"


@dataclass(frozen=True)
class Cell:
    """The networks of one method and activation, seeds of one model, and their accuracies."""

    networks: tuple[Network, ...]
    clean: Rate
    robust: Rate


@dataclass(frozen=True)
class MethodRow:
    """A recipe, or a change of one: `name` is what readers see, `cells` its networks by activation."""

    recipe: str
    method: str
    name: str
    cells: Mapping[str, Cell]


@dataclass(frozen=True)
class MethodTable:
    """Recipes and activations under one attack.

    quantity: the robust accuracy that is meant. activations: the reference first. robust, clean: the comparisons of
    that quantity and of clean accuracy, of all rows.
    """

    quantity: str
    rows: tuple[MethodRow, ...]
    activations: tuple[str, ...]
    robust: tuple[Comparison, ...]
    clean: tuple[Comparison, ...]


def method_table(networks: Sequence[Measured], found: Sequence[Comparison], reference: str) -> MethodTable | None:
    """The recipes of these networks, rows, by activations, columns, under the attack of `main_question`.

    `found` are all their comparisons. A row counts the images that all its networks of a cell met. Smooth derivatives
    behind ReLU are no methods; `ablation_table` has them. None where fewer than two recipes met the attack, or nothing
    was compared.
    """
    asked = main_question(found)
    if not asked:
        return None
    first = asked[0]
    assert first.threat is not None
    joined = [one for one in networks if one.images == first.images]
    lines = model_lines(one.model for one in joined)
    cells: dict[str, dict[str, list[Network]]] = {}
    methods: dict[str, str] = {}
    for measured in joined:
        line, model = lines[measured.model], measured.model
        if (
            not (model.recipe and line.activation)
            or smooth_for(line.model)
            or set(first.attacks) - set(measured.records["attack"])
        ):
            continue
        robust = measured.robust(*first.threat, first.attacks)
        if len(robust):
            network = Network(model, measured.clean.loc[robust.index], robust)
            cells.setdefault(line.model, {}).setdefault(line.activation, []).append(network)
            methods[line.model] = line.method
    if len(cells) < 2:
        return None
    names = row_names(methods)
    found = [one for one in found if one.images == first.images and not smooth_for(one.of[0])]
    bases = {one.against[0] for one in found if one.is_change}
    ordered = sorted(cells, key=lambda recipe: (recipe not in bases, names[recipe]))
    known = {activation for row in cells.values() for activation in row}
    return MethodTable(
        first.quantity,
        tuple(
            MethodRow(recipe, methods[recipe], names[recipe], {one: _cell(cells[recipe][one]) for one in cells[recipe]})
            for recipe in ordered
        ),
        tuple(sorted(known, key=lambda activation: (activation != reference, activation))),
        tuple(one for one in found if one.quantity == first.quantity),
        tuple(one for one in found if one.threat is None),
    )


def row_names(methods: Mapping[str, str]) -> dict[str, str]:
    """What readers call each recipe, from the method of each.

    Changes of one recipe, as `digits-sat [epochs=9, method=trades, method.beta=3]`, are called by their method and its
    parameters, `trades beta=3`, and those of one method also by what else was changed, but for lengths and budgets:
    `pgd_at augment=affine`. Where that does not tell all of them apart, each is called by its recipe.
    """
    short = {recipe: " ".join((method, *_changes(recipe, "method."))) for recipe, method in methods.items()}
    counts = Counter(short.values())
    names = {
        recipe: name if counts[name] == 1 else " ".join((name, *_changes(recipe, "", but=("method", *LENGTHS))))
        for recipe, name in short.items()
    }
    heads = {recipe.partition(" [")[0] for recipe in methods}
    if len(heads) > 1 or len(set(names.values())) < len(names) or not all(methods.values()):
        return {recipe: recipe for recipe in methods}
    return names


def _changes(recipe: str, prefix: str, but: tuple[str, ...] = ()) -> list[str]:
    """The changes in a recipe's name that begin with `prefix`, without it, and not with one of `but`."""
    _, _, changes = recipe.removesuffix("]").partition(" [")
    words = re.split(r", (?=[\w.]+=)", changes) if changes else []  # a value may be a list
    return [word.removeprefix(prefix) for word in words if word.startswith(prefix) and not word.startswith(but)]


def _cell(networks: Sequence[Network]) -> Cell:
    ordered = tuple(sorted(networks, key=lambda one: -1 if one.model.seed is None else one.model.seed))
    rates = []
    for outcomes in ([one.clean for one in ordered], [one.robust for one in ordered]):
        shared = pd.concat(outcomes, axis=1, join="inner").sort_index()
        rates.append(crossed_rate(shared.to_numpy(bool).T))
    return Cell(ordered, *rates)


def accuracies(table: MethodTable, follows: Mapping[str, str]) -> pd.DataFrame:
    """A line a method: robust and clean accuracy in percent for each activation; `follows` is known by recipe."""
    lines = []
    for row in table.rows:
        line = {"method": row.name} | ({"follows": follows.get(row.recipe) or MISSING} if any(follows.values()) else {})
        for activation in table.activations:
            cell = row.cells.get(activation)
            line[f"{activation} robust %"] = _rate(cell.robust) if cell else MISSING
            line[f"{activation} clean %"] = _rate(cell.clean) if cell else MISSING
        lines.append(line)
    return pd.DataFrame(lines)


def counts(table: MethodTable) -> str:
    """`n = 450 images, 3 seeds`, or the smallest and the largest of both."""
    rates = [cell.robust for row in table.rows for cell in row.cells.values()]
    n, seeds = span([one.n for one in rates]), span([one.seeds for one in rates])
    return f"n = {counted(n, 'image')}, {counted(seeds, 'seed')}"


def _rate(rate: Rate) -> str:
    return f"{down(rate.mean)} {outward(rate.low, rate.high)}"


def method_differences(table: MethodTable, found: Iterable[Comparison]) -> pd.DataFrame:
    """A line a method: its activations against the reference, then each activation against the reference method."""
    columns = _columns(table, found)
    lines = []
    for row in table.rows:
        cells = {
            column: difference_cell(group[row.recipe]) if row.recipe in group else MISSING
            for column, group in columns.items()
        }
        lines.append({"method": row.name} | cells)
    return pd.DataFrame(lines)


def in_words(table: MethodTable, found: Iterable[Comparison]) -> list[str]:
    """A sentence a column of `method_differences`: where it is higher, lower, and not decided."""
    names = {row.recipe: row.name for row in table.rows}
    sentences = []
    for column, group in _columns(table, [one for one in found if one.role != DESCRIBED]).items():
        parts = []
        for verdict in ("higher", "lower", *UNDECIDED):
            there = sorted((one for one in group.values() if one.verdict == verdict), key=lambda one: -one.difference)
            listed = [f"{names[one.of[0]]} {inward(one.difference)} {outward(one.low, one.high)}" for one in there]
            if there or verdict != OPEN:
                parts.append(f"{verdict} in {len(there)}" + (f": {', '.join(listed)}" if listed else ""))
        quantity = next(iter(group.values())).quantity
        sentences.append(f"{column}, {quantity}, in points: {'; '.join(parts)}.")
    return sentences


def _columns(table: MethodTable, found: Iterable[Comparison]) -> dict[str, dict[str, Comparison]]:
    """The comparisons by column and recipe: activations first, then methods; those of networks in the table alone."""
    names = {row.recipe: row.name for row in table.rows}
    there = [one for one in found if one.of[0] in names and one.against[0] in names and one.of[1] in table.activations]
    columns: dict[str, dict[str, Comparison]] = {}
    for one in sorted(there, key=lambda one: (one.is_change, table.activations.index(one.of[1]))):
        activation, reference = one.of[1], one.against[1]
        column = (
            f"{activation}, against {names[one.against[0]]}" if one.is_change else f"{activation} against {reference}"
        )
        columns.setdefault(column, {})[one.of[0]] = one
    return columns
