"""One self-contained page about a set of runs, with the table and the figures as files beside it."""

import base64
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from satbench.core.errors import BadInput
from satbench.core.files import write_bytes
from satbench.reporting import background as aside
from satbench.reporting import opening, pictures, plots, provenance, table_forms, tables
from satbench.reporting.ablation import ABLATION_NOTE, ablation_table
from satbench.reporting.background import Background
from satbench.reporting.claims import criteria_table, planned
from satbench.reporting.class_table import CLASS_NOTE, class_table
from satbench.reporting.comparison import DESCRIBED, RULE_NOTE, Comparison
from satbench.reporting.differences import BOOTSTRAP_NOTE, by_quantity, difference_table, main_question
from satbench.reporting.headline import headline_rows
from satbench.reporting.joined import Measured, attacks_of, images_name
from satbench.reporting.lines import model_lines, unseeded
from satbench.reporting.method_table import (
    CELL_NOTE,
    HOLM_NOTE,
    MethodTable,
    accuracies,
    counts,
    in_words,
    method_differences,
    method_table,
)
from satbench.reporting.names import capital, counted
from satbench.reporting.planned import PLAN_NOTE, with_roles
from satbench.reporting.render import check_page_folder, render
from satbench.reporting.reported import REPORTED_NOTE, reported_lines
from satbench.reporting.results_file import RESULTS_FILE, StudyResults, encoded, read_results
from satbench.reporting.same_images import SAME_IMAGES_NOTE, on_same_images
from satbench.reporting.summary import NOT_CHECKED, Row, rows_of
from satbench.reporting.trained import PASSES_NOTE, Trained, training_lines
from satbench.reporting.verdict import comparisons
from satbench.results.metrics import UNION
from satbench.results.store import Run
from satbench.results.training_log import Epoch
from satbench.specs.attack import ids
from satbench.specs.study import Reported

NUMBERS = (
    "n",
    "seeds",
    "violations",
    "rank",
    "seed",
    "images",
    "removed",
    "left",
    "passed",
    "checks",
    "passes",
    "passes an image",
)  # columns set to the right
FORMATS: dict[str, Callable[[Sequence[tables.Line]], str]] = {
    "table.md": table_forms.to_markdown,
    "table.csv": table_forms.to_csv,
    "table.tex": table_forms.to_latex,
    "table.json": table_forms.to_json,
}
FIGURES = ("differences", "methods", "robustness", "clean-against-robust", "training", "examples")
OPENING = ("differences", "methods", "robustness", "clean-against-robust")  # of which the first stands on top
FILES = (*FORMATS, *(f"{stem}.{suffix}" for stem in FIGURES for suffix in plots.SUFFIXES))
IN_TABLES = "The numbers are in the tables of this page."
Curves = Mapping[str, Sequence[Epoch]]


@dataclass(frozen=True)
class Report:
    """Where a report lies: its page, and every file that was written, the page included."""

    folder: Path
    index: Path
    files: tuple[Path, ...]


@dataclass(frozen=True)
class _Drawn:
    """A figure, and another form of it for narrow screens where it has one."""

    stem: str
    caption: str
    alt: str
    figure: Figure
    narrow: Figure | None = None


@dataclass(frozen=True)
class _Shown:
    """A figure as addresses that hold it; `inches` is its width."""

    stem: str
    caption: str
    alt: str
    data: str
    inches: float
    narrow: str


def write_report(folder: Path, results: StudyResults) -> Report:
    """Write table, figures and one page with all of it into `folder`; the page loads nothing from elsewhere.

    A study of a title in `leaderboards/claims.yaml` is shown with its plan and its criteria there. The file
    `RESULTS_FILE` rebuilds the page. The same results give the same bytes. All is computed before the first file is
    replaced; figures of an earlier page that this one does not have are removed. Raises `BadInput` when the runs hold
    no records, and as `check_report_folder` does.
    """
    index = folder / "index.html"
    check_report_folder(folder)
    runs = tuple(sorted(results.runs, key=lambda run: run.manifest.model_dump_json()))
    results = replace(results, runs=runs)
    networks, reference, background = results.networks, results.reference, results.background
    rows = rows_of(networks)
    if not rows:
        raise BadInput("no records to report on; give run folders made by `satbench eval` with at least one attack")
    lines = tables.accuracy_table(rows, reference)
    files = {folder / name: form(lines).encode() for name, form in FORMATS.items()}
    found, uncompared = comparisons(networks, reference, every=True)
    plan, criteria = planned(results)
    if plan is None:
        tested, _ = comparisons(networks, reference)
    else:
        found = with_roles(found, plan, attacks_of(runs))
        tested = [one for one in found if one.role != DESCRIBED]
    asked = main_question(found)
    files[folder / RESULTS_FILE] = encoded(results)
    methods = method_table(networks, found, reference)
    # what varies most comes first, where no plan says what does
    by_method = methods is not None and plan is None and len(methods.rows) > len(methods.activations)
    figures = {}
    headline = _at(lines, headline_rows(rows))
    are_several = len({line.identity for line in lines}) > 1
    shown = headline if are_several else lines
    sentence = opening.of_differences(asked) if asked else opening.of_lines(shown)
    first, equal = table_forms.first_columns(shown)
    curves = _curves(results)
    for one in (*_differences(asked), *_methods(methods), *_drawn(rows, curves), *_examples(background)):
        forms = plots.encoded(one.figure)
        narrow = _address(plots.encoded(one.narrow)["svg"]) if one.narrow else ""
        width = float(one.figure.get_figwidth())
        figures[one.stem] = _Shown(one.stem, one.caption, one.alt, _address(forms["svg"]), width, narrow)
        files |= {folder / f"{one.stem}.{suffix}": content for suffix, content in forms.items()}
    under, classes = _classes(networks, asked, headline)
    page = render(
        "report.html.j2",
        title=results.title,
        notes=results.notes,
        headline=opening.of_methods(methods) if methods and by_method else sentence,
        answer=sentence if asked and by_method else "",
        by_method=by_method,
        opening="methods" if by_method else next((stem for stem in OPENING if stem in figures), ""),
        methods=None if methods is None else _method_section(methods, results.trained, results.reported),
        numbers=NUMBERS,
        counted=counted,
        background=aside.section(background, runs)
        | {
            "criteria": criteria_table(criteria),
            "ablation": ablation_table(found, asked) if asked else (),
            "ablation_note": ABLATION_NOTE if plan is None else f"{ABLATION_NOTE} {PLAN_NOTE}",
            "ablation_of": asked[0].quantity if asked else "",
            "file": RESULTS_FILE,
        },
        bound=_bound(asked, runs) if asked else "",
        first=first,
        first_caption=f"Clean and robust accuracy{f'; {equal}' if equal else ''}",
        whole=table_forms.readable(lines),
        table_notes=table_forms.notes(lines),
        trust=provenance.trust_table(runs),
        trust_words=provenance.trust_words(runs),
        doubts=table_forms.doubts([line for line in lines if line.trust != NOT_CHECKED]),
        stages=provenance.stages(runs),
        compared=by_quantity(tested),
        compared_on=tested[0].where if len({one.where for one in tested}) == 1 else "",
        uncompared=uncompared if are_several else (),
        radii=len({line.threat for line in lines}),
        rule=RULE_NOTE if plan is None else f"{RULE_NOTE} {PLAN_NOTE}",
        differences=difference_table(found),
        same_images=_same_images(networks, reference, found, asked, runs),
        same_images_note=SAME_IMAGES_NOTE,
        bootstrap_note=BOOTSTRAP_NOTE,
        classes=classes,
        classes_of=under,
        class_note=CLASS_NOTE,
        figures=figures,
        measured=provenance.facts(lines, runs),
        attacks=provenance.attacks(rows),
        models=provenance.networks(runs),
    )
    files = {index: page.encode()} | files  # first: the mark of a folder that a killed command has begun
    for path, content in files.items():
        write_bytes(path, content)
    for path in (folder / name for name in FILES):  # a figure of an earlier page that this one has not
        if path not in files:
            path.unlink(missing_ok=True)
    return Report(folder, index, tuple(files))


def check_report_folder(folder: Path) -> None:
    """Raise `BadInput` for a folder in which a report would replace what satbench did not write.

    The results of a report may lie there without its page, which can be made from them.
    """
    check_page_folder(folder, FILES)
    if (folder / RESULTS_FILE).exists() and not (folder / "index.html").exists():
        read_results(folder / RESULTS_FILE, "give another folder for --out")


def _address(svg: bytes) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg).decode("ascii")


def _differences(asked: Sequence[Comparison]) -> list[_Drawn]:
    if not asked:
        return []
    caption = "Differences of the mean over seeds, with 95% intervals over images and seeds; hollow: not decided."
    names = ", ".join(one.activation for one in asked)
    alt = f"Differences in {asked[0].quantity} for {names}. {IN_TABLES}"
    narrow = plots.differences(asked, is_narrow=True)
    return [_Drawn("differences", caption, alt, plots.differences(asked), narrow)]


def _same_images(
    networks: Sequence[Measured],
    reference: str,
    found: Sequence[Comparison],
    asked: Sequence[Comparison],
    runs: Sequence[Run],
) -> pd.DataFrame:
    if not asked:
        return pd.DataFrame()
    threat = asked[0].threat
    assert threat is not None  # as `main_question` gives them
    return on_same_images(networks, reference, found, threat, attacks_of(runs))


def _bound(asked: Sequence[Comparison], runs: Sequence[Run]) -> str:
    """That the main attack only bounds robust accuracy, and what trust checks say; "" for AutoAttack."""
    known = attacks_of(runs)
    if any(known[attack].tier == "AutoAttack" for attack in asked[0].attacks):
        return ""
    quantity = asked[0].quantity
    return f"{capital(quantity)} is an upper bound. {provenance.trust_words(runs)}"


def _examples(background: Background) -> list[_Drawn]:
    if not background.pictures:
        return []
    caption = pictures.caption(background.pictures)
    return [_Drawn("examples", caption, caption, pictures.drawn(background.pictures))]


def _methods(table: MethodTable | None) -> list[_Drawn]:
    if table is None:
        return []
    caption = f"Accuracy of each method and activation with 95% intervals over images and seeds; {counts(table)}."
    names = ", ".join(row.name for row in table.rows)
    alt = f"Robust and clean accuracy of {names}, with {', '.join(table.activations)}. {IN_TABLES}"
    return [_Drawn("methods", caption, alt, plots.methods(table), plots.methods(table, is_narrow=True))]


def _classes(
    networks: Sequence[Measured], asked: Sequence[Comparison], headline: Sequence[tables.Line]
) -> tuple[str, pd.DataFrame]:
    """A robust accuracy in words, and that of each class: what was compared, else that of the headline."""
    if asked:
        first = asked[0]
        assert first.threat is not None  # as `main_question` gives them
        return first.quantity, class_table(networks, first.images, first.threat, first.attacks)
    line = opening.main_line(headline)
    images, threat = images_name(line.dataset, line.split, line.loader), (line.norm, line.eps_value)
    under = f"robust accuracy at {line.threat} under {line.attack}"
    return under, class_table(networks, images, threat, ids(line.attacks))


def _method_section(table: MethodTable, trained: Sequence[Trained], reported: Sequence[Reported]) -> dict[str, object]:
    """What the page says of methods and activations."""
    return {
        "accuracies": accuracies(table, {one.recipe: one.follows for one in trained}),
        "caption": f"{capital(table.quantity)}, and clean accuracy; {counts(table)}",
        "notes": (CELL_NOTE, HOLM_NOTE),
        "parts": [
            (quantity, in_words(table, found), method_differences(table, found))
            for quantity, found in (("robust", table.robust), ("clean", table.clean))
        ],
        "reported": reported_lines(reported, table),
        "reported_note": REPORTED_NOTE,
        "trained": training_lines(trained, {row.recipe: row.name for row in table.rows}),
        "passes_note": PASSES_NOTE,
    }


def _drawn(rows: Sequence[Row], curves: Curves) -> list[_Drawn]:
    """The figures of single models and trainings; none where these are too many to be told apart.

    Curves over radii are drawn where there are several, and clean against robust accuracy for several models.
    """
    lines = sorted(set(model_lines(row.network for row in rows).values()))
    if len(lines) > plots.LOOKS:
        return []
    models = ", ".join(dict.fromkeys(f"{line.model} {line.activation}".strip() for line in lines))
    drawn = []
    radii = {(row.norm, row.eps) for row in rows if row.norm != UNION}
    if len(radii) > len({norm for norm, _ in radii}):
        caption = "Robust accuracy over the radius; the point at eps 0 is clean accuracy."
        alt = f"Curves of robust accuracy over eps for {models}. {IN_TABLES}"
        both = (plots.robustness_curves(rows), plots.robustness_curves(rows, is_narrow=True))
        drawn.append(_Drawn("robustness", caption, alt, *both))
    if len(lines) > 1:
        caption = "Clean against robust accuracy; crosses are 95% intervals of the mean over images."
        alt = f"Scatter of clean against robust accuracy for {models}. {IN_TABLES}"
        both = (plots.clean_against_robust(rows), plots.clean_against_robust(rows, is_narrow=True))
        drawn.append(_Drawn("clean-against-robust", caption, alt, *both))
    if curves:
        caption = (
            "Training, epoch by epoch: means over seeds, in bands from the lowest to the highest. FGSM far above PGD "
            "would be a sign of catastrophic overfitting."
        )
        names = ", ".join(sorted(set(map(unseeded, curves))))
        alt = f"Curves of training loss and validation accuracy over epochs for {names}."
        both = (plots.training_curves(curves), plots.training_curves(curves, is_narrow=True))
        drawn.append(_Drawn("training", caption, alt, *both))
    return drawn


def _curves(results: StudyResults) -> Curves:
    """The training curves, without the recipe in their names where all trainings have the same."""
    recipes = {one.recipe for one in results.trained}
    common = f"{recipes.pop()}, " if len(recipes) == 1 else ""
    return {name.removeprefix(common): rows for name, rows in results.curves.items()}


def _at(lines: Sequence[tables.Line], rows: Sequence[Row]) -> list[tables.Line]:
    """The lines at the threats of these rows."""
    chosen = {(row.dataset, row.split, row.norm, row.eps) for row in rows}
    return [line for line in lines if (line.dataset, line.split, line.norm, line.eps_value) in chosen]
