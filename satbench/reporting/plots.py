"""Figures of rows and training curves, drawn without global state and stored as the same bytes every time."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle
from pathlib import Path
from typing import Any, Literal

import matplotlib
import matplotlib.style
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from satbench.core.escaping import figure_text
from satbench.core.files import write_bytes
from satbench.reporting.comparison import UNDECIDED, Comparison
from satbench.reporting.headline import headline_rows
from satbench.reporting.joined import images_name
from satbench.reporting.lines import group_rows, unseeded
from satbench.reporting.method_table import MethodTable
from satbench.reporting.names import counted, strength
from satbench.reporting.summary import Row
from satbench.reporting.tables import accuracy_table
from satbench.results.crossed import Rate
from satbench.results.metrics import UNION, WORST
from satbench.results.training_log import Epoch
from satbench.specs.attack import AttackInfo, ids

# the palette of Okabe & Ito (2008) for all kinds of colour vision, without its yellow, which is faint on white
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
Line = Literal["-", "--", ":", "-."]
LINE_WORDS: dict[Line, str] = {"-": "solid", "--": "dashed", ":": "dotted", "-.": "dash-dotted"}
LINES = tuple(LINE_WORDS)
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "figure.facecolor": "white",
    "svg.hashsalt": "satbench",
    "svg.fonttype": "path",
}
LOOKS = len(COLOURS) * len(LINES)  # lines of a figure that can be told apart
PANEL = (5.6, 4.0)  # inches
NARROW = (4.4, 3.6)  # of a figure for a phone, whose panels lie below each other
SUFFIXES: dict[str, dict[str, None]] = {  # forms of a figure, each without what would differ between equal figures
    "svg": {"Date": None, "Creator": None},
    "png": {"Software": None},
}
BAND = "shaded: 95% interval"


@contextmanager
def styled() -> Iterator[None]:
    """Draw in the style of all figures."""
    with matplotlib.rc_context():
        matplotlib.style.use(["default", STYLE])
        yield


@dataclass(frozen=True)
class _Look:
    colour: str
    marker: str
    line: Line


def _look(position: int) -> _Look:
    turn = position // len(COLOURS)
    return _Look(COLOURS[position % len(COLOURS)], MARKERS[(position + turn) % len(MARKERS)], LINES[turn % len(LINES)])


def robustness_curves(rows: Sequence[Row], is_narrow: bool = False) -> Figure:
    """Robust accuracy over eps, a line per model (mean over seeds) with its 95% band, from the clean point at eps 0.

    One panel per data set, split, loader and norm, under the attack that was measured at the most radii (the strongest
    of those). Models that did not meet it are not in the panel.
    """
    frame = _frame(rows)
    panels = []
    for _, here in frame.groupby([*_IMAGES, "norm"]):
        attacks = _attacks(here)
        radii = {met: here.loc[_met(here, met), "eps_value"].nunique() for met in attacks}
        widest = max(radii, key=lambda met: (radii[met], strength(attacks[met]), met))
        panels.append(here[_met(here, widest)])
    with styled():
        figure, axes = _panels(len(panels), is_narrow)
        names = _names(frame)
        for panel, chosen in zip(axes, panels, strict=True):
            _draw_curves(panel, chosen, names)
        _legend(figure, names, points=True, lines=True)
    return figure


def _draw_curves(axes: Axes, frame: pd.DataFrame, names: Mapping[tuple[str, ...], str]) -> None:
    norm = figure_text(frame["norm"].iloc[0])
    scale = 255 if norm == "Linf" else 1
    for key, line in frame.groupby(list(_IDENTITY)):
        points = _with_clean_point(line.sort_values("eps_value"))
        look = _look(list(names).index(key))
        x = [eps * scale for eps in points["eps_value"]]
        axes.plot(
            x,
            points["robust"] * 100,
            color=look.colour,
            linestyle=look.line,
            marker=look.marker,
            markersize=4.5,
            lw=1.6,
        )
        axes.fill_between(x, points["robust_lo"] * 100, points["robust_hi"] * 100, color=look.colour, alpha=0.15, lw=0)
    axes.set_title(f"{_data(frame)}, {norm}, {_attack(frame)}\n{_counts(frame)}; {BAND}")
    axes.set_xlabel("eps in 1/255 of the pixel range" if norm == "Linf" else f"eps ({norm}, pixels in [0, 1])")
    axes.set_ylabel("robust accuracy, %")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=9, steps=[1, 2, 4, 5, 10]))
    axes.set_ylim(-2, 102)


def _with_clean_point(line: pd.DataFrame) -> pd.DataFrame:
    """The line with clean accuracy at eps 0 in front, on the images of its largest n."""
    if line["eps_value"].iloc[0] == 0:
        return line
    widest = line.loc[[line["n"].idxmax()]]
    clean = {f"robust{end}": widest[f"clean{end}"] for end in ("", "_lo", "_hi")}
    return pd.concat([widest.assign(eps_value=0.0, **clean), line])


def clean_against_robust(rows: Sequence[Row], is_narrow: bool = False) -> Figure:
    """Clean against robust accuracy at the headline threats: each seed small, the mean marked with its 95% cross.

    One panel per data set, split, loader and threat, under the strongest attack that the most networks met.
    """
    frame = _frame(rows)
    headline = {(row.dataset, row.split, row.loader or "", row.norm, row.eps) for row in headline_rows(rows)}
    panels = []
    for place, here in frame.groupby([*_IMAGES, "norm", "eps_value"]):
        if place in headline:
            attacks = _attacks(here)
            networks = {met: here.loc[_met(here, met), "seeds"].sum() for met in attacks}
            best = max(networks, key=lambda met: (networks[met], strength(attacks[met]), len(met), met))
            panels.append(here[_met(here, best)])
    with styled():
        figure, axes = _panels(len(panels), is_narrow)
        names = _names(frame)
        for panel, shown in zip(axes, panels, strict=True):
            _draw_scatter(panel, shown, names)
        _legend(figure, names, points=True, lines=False)
    return figure


def _draw_scatter(axes: Axes, frame: pd.DataFrame, names: Mapping[tuple[str, ...], str]) -> None:
    for _, line in frame.iterrows():
        look = _look(list(names).index(tuple(line[list(_IDENTITY)])))
        seeds = [(100 * row.clean_correct / row.n, 100 * row.robust / row.n) for row in line["rows"]]
        axes.scatter(
            [clean for clean, _ in seeds],
            [robust for _, robust in seeds],
            color=look.colour,
            marker=look.marker,
            s=14,
            alpha=0.5,
            lw=0,
        )
        axes.errorbar(
            line["clean"] * 100,
            line["robust"] * 100,
            xerr=_arms(line["clean"], line["clean_lo"], line["clean_hi"]),
            yerr=_arms(line["robust"], line["robust_lo"], line["robust_hi"]),
            color=look.colour,
            marker=look.marker,
            markersize=8,
            markeredgecolor="white",
            lw=1.2,
        )
    threat = figure_text(f"{frame['norm'].iloc[0]} {frame['eps'].iloc[0]}")
    small = "; small: single seeds" if frame["seeds"].max() > 1 else ""
    axes.set_title(f"{_data(frame)}, {threat}, {_attack(frame)}\n{_counts(frame)}{small}")
    axes.set_xlabel("clean accuracy, %")
    axes.set_ylabel("robust accuracy, %")


def _arms(mean: float, low: float, high: float) -> list[list[float]]:
    """How far an interval reaches below and above the mean, in percent."""
    return [[max(0.0, mean - low) * 100], [max(0.0, high - mean) * 100]]


def differences(asked: Sequence[Comparison], is_narrow: bool = False) -> Figure:
    """Comparisons of one quantity: the difference of each with its 95% interval, a line each, the first on top.

    Filled where the difference is higher or lower than the reference, hollow where that is not decided.
    """
    counts = [f"n = {one.n}, {counted(len(one.seeds), 'seed')}" for one in asked]
    names = [figure_text(f"{one.activation} - {one.reference}") for one in asked]
    with styled():
        width = NARROW[0] if is_narrow else PANEL[0] + 0.08 * max(map(len, names))  # inches: a letter each
        figure = Figure(figsize=(width, 1.1 + 0.45 * len(asked)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color="#555555", lw=1)
        for place, one in enumerate(asked):
            arms = [[(one.difference - one.low) * 100], [(one.high - one.difference) * 100]]
            face = "white" if one.verdict in UNDECIDED else COLOURS[0]
            axes.errorbar(
                one.difference * 100, place, xerr=arms, fmt="o", color=COLOURS[0], markerfacecolor=face, capsize=3
            )
        axes.set_yticks(range(len(asked)), [f"{name}\n{count}" for name, count in zip(names, counts, strict=True)])
        axes.set_ylim(len(asked) - 0.5, -0.5)
        quantity = _title(asked[0].quantity, is_narrow)
        figure.suptitle(quantity, fontsize=STYLE["axes.titlesize"])
        axes.set_xlabel("difference in points")
    return figure


def methods(table: MethodTable, is_narrow: bool = False) -> Figure:
    """Robust and clean accuracy of each method, a line each, with a point and its 95% interval for each activation."""
    middle = (len(table.activations) - 1) / 2
    with styled():
        height = 1.4 + 0.36 * len(table.rows)
        size = (NARROW[0], 2 * height) if is_narrow else (2 * PANEL[0], height)
        figure = Figure(figsize=size, layout="constrained")
        robust, clean = figure.subplots(*((2, 1) if is_narrow else (1, 2)), sharey=True)
        for axes, quantity in ((robust, "robust"), (clean, "clean")):
            for position, activation in enumerate(table.activations):
                look = _look(position)
                for place, row in enumerate(table.rows):
                    if activation in row.cells:
                        rate: Rate = getattr(row.cells[activation], quantity)
                        axes.errorbar(
                            rate.mean * 100,
                            place + (position - middle) * 0.6 / max(1, 2 * middle),
                            xerr=_arms(rate.mean, rate.low, rate.high),
                            color=look.colour,
                            marker=look.marker,
                            markersize=4.5,
                            lw=1.2,
                        )
            axes.set_xlabel("accuracy, %")
        robust.set_yticks(range(len(table.rows)), [figure_text(row.name) for row in table.rows])
        robust.set_ylim(len(table.rows) - 0.5, -0.5)
        robust.set_title(_title(table.quantity, is_narrow))
        clean.set_title("clean accuracy")
        _legend(figure, {(activation,): activation for activation in table.activations}, points=True, lines=False)
    return figure


def training_curves(curves: Mapping[str, Sequence[Epoch]], is_narrow: bool = False) -> Figure:
    """Training loss, clean validation accuracy, and validation accuracy under attack, over epochs counted from 1.

    `curves` maps the name of a run to its log. Runs that differ only in a seed at the end of the name are one line,
    their mean over the seeds that measured an epoch, in a band from the lowest to the highest. An epoch that none
    measured is passed over.
    """
    log = pd.DataFrame(
        {"line": unseeded(name), **row.to_dict()} for name, rows in sorted(curves.items()) for row in rows
    )
    names = sorted(set(map(unseeded, curves)))
    figures = {name for rows in curves.values() for row in rows if row.val is not None for name in row.val.figures}
    attacked = dict(zip(sorted(figures - {"clean"}, reverse=True), cycle(LINES), strict=False))
    with styled():
        figure, axes = _panels(3, is_narrow)
        for position, name in enumerate(names):
            look = _look(position)
            panels = [(0, "train_loss", look.line, 1), (1, "val_clean", look.line, 100)]
            panels += [(2, f"val_{figure}", line, 100) for figure, line in attacked.items()]
            for panel, field, line, scale in panels:
                if field not in log:
                    continue
                epochs = log[log["line"] == name].groupby("epoch")
                seeds = (epochs[field].agg(["mean", "min", "max"]) * scale).dropna()
                x, marker = seeds.index + 1, look.marker if len(seeds) == 1 else ""
                axes[panel].plot(x, seeds["mean"], color=look.colour, linestyle=line, lw=1.3, marker=marker)
                axes[panel].fill_between(x, seeds["min"], seeds["max"], color=look.colour, alpha=0.12, lw=0)
        titles = (
            "Training loss",
            "Clean validation accuracy",
            "Validation: " + ", ".join(f"{name} {LINE_WORDS[line]}" for name, line in attacked.items()),
        )
        for axis, title in zip(axes, titles, strict=True):
            axis.set_title(title)
            axis.set_xlabel("epoch")
            axis.set_ylabel("loss" if axis is axes[0] else "accuracy, %")
            axis.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
        _legend(figure, {(name,): name for name in names}, points=False, lines=True)
    return figure


def save(figure: Figure, folder: Path, stem: str) -> list[Path]:
    """Write `stem.svg` and `stem.png` atomically, without dates: the same figure gives the same bytes."""
    files = {folder / f"{stem}.{suffix}": content for suffix, content in encoded(figure).items()}
    for path, content in files.items():
        write_bytes(path, content)
    return list(files)


def encoded(figure: Figure) -> dict[str, bytes]:
    """The figure as "svg" and as "png", in one layout, which it keeps."""
    found = {}
    with styled():
        for suffix, metadata in SUFFIXES.items():
            buffer = BytesIO()
            figure.savefig(buffer, format=suffix, dpi=144, metadata=metadata)
            figure.set_layout_engine(None)
            found[suffix] = buffer.getvalue()
    return found


_IDENTITY = ("model", "activation", "method", "trained_for")
_IMAGES = ("dataset", "split", "loader")


def _frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The accuracy table without unions, which have no radius to draw, and the rows behind each line."""
    drawn = [row for row in rows if row.norm != UNION]
    return pd.DataFrame(map(vars, accuracy_table(drawn))).assign(rows=[group for _, group in group_rows(drawn)])


def _attacks(frame: pd.DataFrame) -> dict[tuple[str, ...], tuple[AttackInfo, ...]]:
    """The sets of attacks in a frame, by their ids."""
    return {ids(attacks): attacks for attacks in frame["attacks"]}


def _met(frame: pd.DataFrame, attacks: tuple[str, ...]) -> list[bool]:
    return [ids(met) == attacks for met in frame["attacks"]]


def _names(frame: pd.DataFrame) -> dict[tuple[str, ...], str]:
    """A legend entry per model: only the parts in which the models differ."""
    keys = sorted(set(frame[list(_IDENTITY)].itertuples(index=False, name=None)))
    differing = [part for part in range(len(_IDENTITY)) if len({key[part] for key in keys}) > 1] or [0, 1]
    return {key: ", ".join(filter(None, (key[part] for part in differing))) or key[0] for key in keys}


def _panels(count: int, is_narrow: bool) -> tuple[Figure, list[Axes]]:
    columns = 1 if is_narrow else min(max(count, 1), 2 if count != 3 else 3)
    lines = math.ceil(max(count, 1) / columns)
    width, height = NARROW if is_narrow else PANEL
    figure = Figure(figsize=(width * columns, height * lines + 0.3), layout="constrained")
    grid = figure.add_gridspec(lines, columns)
    return figure, [figure.add_subplot(grid[place // columns, place % columns]) for place in range(count)]


def _legend(figure: Figure, names: Mapping[tuple[str, ...], str], points: bool, lines: bool) -> None:
    """One legend for all panels, below them."""
    looks = [(_look(position), figure_text(name)) for position, name in enumerate(names.values())]
    handles = [
        Line2D(
            [], [], color=look.colour, marker=look.marker if points else "", ls=look.line if lines else "", label=name
        )
        for look, name in looks
    ]
    longest = max((len(name) for name in names.values()), default=1)
    fitting = max(1, int(figure.get_figwidth() / (0.6 + 0.085 * longest)))  # inches: handle and gap, then letters
    lines_of_text = math.ceil(len(handles) / fitting)
    columns = math.ceil(len(handles) / lines_of_text)
    figure.set_figheight(figure.get_figheight() + 0.2 * lines_of_text)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)


def _title(quantity: str, is_narrow: bool) -> str:
    """A quantity as a title, its attacks in a line of their own where the figure is narrow or they are many."""
    title = figure_text(quantity).replace(f"{WORST} of ", f"{WORST} of\n")
    return title.replace(" under ", "\nunder ") if is_narrow else title


def _data(frame: pd.DataFrame) -> str:
    return figure_text(images_name(*frame[list(_IMAGES)].iloc[0]))


def _attack(frame: pd.DataFrame) -> str:
    """The attack of the frame; the worst case names its attacks in a line of its own."""
    return figure_text(frame["attack"].iloc[0]).replace(f"{WORST} of ", f"{WORST} of\n")


def _counts(frame: pd.DataFrame) -> str:
    def span(column: str) -> str:
        low, high = frame[column].min(), frame[column].max()
        return str(low) if low == high else f"{low} to {high}"

    return f"n = {span('n')}, seeds: {span('seeds')}"
