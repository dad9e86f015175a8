"""The sentence with which the page of a report begins: what was found, with intervals, n and seeds."""

from collections.abc import Iterable, Sequence

from satbench.reporting.comparison import UNDECIDED, Comparison
from satbench.reporting.differences import span
from satbench.reporting.joined import images_name
from satbench.reporting.method_table import MethodTable
from satbench.reporting.names import capital, counted, strength
from satbench.reporting.rounding import inward, outward
from satbench.reporting.table_forms import interval, trust_words
from satbench.reporting.tables import Line
from satbench.results.metrics import UNION

MOST = 4  # models or radii that are listed one by one


def of_differences(asked: Sequence[Comparison]) -> str:
    """Comparisons of one quantity with their reference: which are higher, which lower, and which are not decided.

    Of more than `MOST` that are not decided, the highest and the lowest difference stand for all.
    """
    ordered = sorted(asked, key=lambda one: -one.difference)
    quantity, reference = asked[0].quantity, _either(dict.fromkeys(one.reference for one in asked))
    seeds = [len(one.seeds) for one in asked]
    n = f"n = {counted(span([one.n for one in asked]), 'image')}"
    are_equal = len(set(seeds)) == 1
    counts = f"({n}, {counted(seeds[0], 'seed')} each)" if are_equal else f"({n})"
    points = {one: _points(one) + ("" if are_equal else f", {counted(len(one.seeds), 'seed')}") for one in asked}
    groups = {
        verdict: _series(f"{one.activation} ({points[one]})" for one in ordered if one.verdict == verdict)
        for verdict in ("higher", "lower")
    }
    open_ = [one for one in ordered if one.verdict in UNDECIDED]
    decided = " and ".join(f"{verdict} with {listed}" for verdict, listed in groups.items() if listed)
    each = [f"{one.activation} ({points[one]})" for one in open_]
    is_long = len(each) > MOST
    if not decided:
        listed = f"from {each[0]} to {each[-1]}, {len(each)} in all" if is_long else ", ".join(each)
        return f"No difference to {reference} in {quantity} is decided: {listed} {counts}."
    rest = f"{len(each)} others, from {each[0]} to {each[-1]}," if is_long else _series(each)
    undecided = f"; with {rest} the difference is not decided" if each else ""
    return f"{capital(quantity)} is {decided} than with {reference}{undecided} {counts}."


def of_methods(table: MethodTable) -> str:
    """Which methods are separable from the method of the reference, and in which of them an activation is."""
    names = {row.recipe: row.name for row in table.rows}
    known = [one for one in table.robust if one.of[0] in names and one.against[0] in names]
    changes, others = [[one for one in known if one.is_change is wanted] for wanted in (True, False)]
    parts = [_of_changes(changes, names, table.quantity)] if changes else []
    for activation in table.activations:
        here = [one for one in others if one.of[1] == activation]
        parts += [_of_activation(here, names)] if here else []
    return f"{capital('; '.join(parts))}."


def _of_changes(changes: Sequence[Comparison], names: dict[str, str], quantity: str) -> str:
    methods = list(dict.fromkeys(names[one.of[0]] for one in changes))
    base = _either(dict.fromkeys(names[one.against[0]] for one in changes))
    found = {
        verdict: {
            name: [one for one in changes if names[one.of[0]] == name and one.verdict == verdict] for name in methods
        }
        for verdict in ("higher", "lower")
    }
    said = []
    for verdict, by_method in found.items():
        decided = {name: group for name, group in by_method.items() if group}
        where: dict[str, list[str]] = {}
        for name, group in decided.items():
            compared = sum(names[one.of[0]] == name for one in changes)
            here = _series(one.of[1] for one in group)
            where.setdefault("every activation" if len(group) == compared > 1 else here, []).append(name)
        listed = "; ".join(f"{_series(group)} with {here}" for here, group in where.items())
        has = f"{len(decided) or 'none'} {'has' if len(decided) < 2 else 'have'}"
        what = f"a {verdict} {quantity} than {base}" if verdict == "higher" else f"a {verdict} one"
        said.append(f"{has} {what}{f' ({listed})' if listed else ''}")
    rest = sum(not any(by_method[name] for by_method in found.values()) for name in methods)
    undecided = f", and for {rest} it is not decided" if rest else ""
    return f"of {counted(len(methods), 'method')}, {', '.join(said)}{undecided}"


def _of_activation(here: Sequence[Comparison], names: dict[str, str]) -> str:
    said = []
    activation, reference, methods = here[0].of[1], here[0].reference, [names[one.of[0]] for one in here]
    of_all = "" if len(methods) == 1 else f" of {counted(len(methods), 'method')}"
    for verdict in ("higher", "lower"):
        if found := [names[one.of[0]] for one in here if one.verdict == verdict]:
            where = f"{len(found)}{of_all} ({_series(found)})" if of_all else methods[0]
            said.append(f"{verdict} than {reference} in {where}")
    nowhere = f"neither higher nor lower than {reference} in {f'any{of_all}' if of_all else methods[0]}"
    return f"{activation} is {' and '.join(said) or nowhere}"


def of_lines(lines: Sequence[Line]) -> str:
    """Accuracies of models that were not compared: of one model at its radii, of several at one threat."""
    if len({line.identity for line in lines}) == 1:
        return _of_one(lines)
    main = main_line(lines)
    here = [line for line in lines if _place(line) == _place(main) and line.attack == main.attack]
    ordered = sorted(here, key=lambda line: -line.robust)
    shown = ordered if len(ordered) <= MOST else [ordered[0], ordered[-1]]
    each = _series(f"{_rate(line)} for {line.name}" for line in shown)
    models = "" if len(shown) == len(ordered) else f", the highest and the lowest of {len(ordered)} models"
    return f"Robust accuracy at {main.threat} under {main.attack} is {each}{models} ({_counts(here)})."


def _of_one(lines: Sequence[Line]) -> str:
    lowest = {_place(line): line for line in sorted(lines, key=lambda line: -line.robust)}
    radii = sorted(lowest.values(), key=lambda line: (line.dataset, line.norm, line.eps_value))
    radii = radii if len(radii) <= MOST else [radii[0], radii[-1]]
    first, is_one_attack = radii[0], len({line.attack for line in radii}) == 1
    each = _series(
        f"{_rate(line)} at {line.threat}{'' if is_one_attack else f' under {line.attack}'}" for line in radii
    )
    under = f" under {first.attack}" if is_one_attack else ""
    clean = interval(first.clean, first.clean_lo, first.clean_hi).replace(" ", "% ", 1)
    doubted = next((line for line in reversed(radii) if line.trust != "pass"), None)
    trust = f" Trust: {trust_words(doubted)}." if doubted else ""
    said = f"{first.name} has a clean accuracy of {clean}, and a robust accuracy{under} of {each}"
    return f"{said} ({_counts(radii)}).{trust}"


def main_line(lines: Sequence[Line]) -> Line:
    """The line of the threat and attack that most models met, of these the strongest attack, and the lowest accuracy.

    A union of threats is taken only where there is nothing else.
    """

    def rank(line: Line) -> tuple[object, ...]:
        met = sum(_place(one) == _place(line) and one.attack == line.attack for one in lines)
        return line.norm != UNION, met, strength(line.attacks), -line.robust

    return max(lines, key=rank)


def _place(line: Line) -> tuple[str, str, str, str]:
    return line.dataset, line.split, line.loader, line.threat


def _counts(lines: Sequence[Line]) -> str:
    data = _series(dict.fromkeys(images_name(line.dataset, line.split, line.loader) for line in lines))
    n = counted(span([line.n for line in lines]), "image")
    return f"n = {n} of {data}, {counted(span([line.seeds for line in lines]), 'seed')}"


def _rate(line: Line) -> str:
    return interval(line.robust, line.robust_lo, line.robust_hi).replace(" ", "% ", 1)


def _points(one: Comparison) -> str:
    return f"{inward(one.difference)} points {outward(one.low, one.high)}"


def _series(words: Iterable[str]) -> str:
    """`a, b and c`."""
    return _joined(list(words), "and")


def _either(words: Iterable[str]) -> str:
    """`a, b or c`."""
    return _joined(list(words), "or")


def _joined(words: list[str], last: str) -> str:
    return f" {last} ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))
