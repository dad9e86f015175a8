"""What the documents say of the studies on photographs is what their committed results give."""

import re
from collections import Counter
from pathlib import Path

import pandas as pd
import pytest

from satbench.reporting.results_file import RESULTS_FILE, StudyResults, read_results

ROOT = Path(__file__).parents[2]
REPORT = ROOT / "reports" / "smooth-vs-relu"
ELU_AND_CELU = ROOT / "reports" / "elu-and-celu"
RECIPE = "cifar10-jpeg-sat-small"
COLUMNS = {"clean": ("PGD-10", 8000), "PGD-10": ("PGD-10", 8000), "PGD-50": ("PGD-50", 2000)}


@pytest.fixture(scope="module")
def section() -> str:
    return (ROOT / "README.md").read_text().partition("## What the study shows")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def results() -> StudyResults:
    return read_results(REPORT / RESULTS_FILE)


def test_the_table_is_that_of_the_report(section: str) -> None:
    measured = pd.read_csv(REPORT / "table.csv")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("| ")]
    heads, _, *rows = rows
    assert [head.partition(",")[0] for head in heads[2:]] == list(COLUMNS)
    assert {row[0] for row in rows} == set(measured["activation"])
    for name, seeds, *cells in rows:
        many, _, fewer = seeds.partition(", PGD-50 ")
        for (column, (attack, n)), cell in zip(COLUMNS.items(), cells, strict=True):
            (line,) = measured.query(
                "model == @RECIPE and activation == @name and eps == '8/255' and attack == @attack"
            ).to_dict("records")
            kind = "clean" if column == "clean" else "robust"
            value, low, high = (line[f"{kind}{end}_percent"] for end in ("", "_lo", "_hi"))
            assert cell == f"{value} [{low}, {high}]", (name, column)
            assert (line["n"], line["seeds"]) == (n, int(fewer if fewer and attack == "PGD-50" else many))


def test_every_figure_with_its_interval_and_every_p_value_is_on_the_page(section: str) -> None:
    page = (REPORT / "index.html").read_text() + (ELU_AND_CELU / "index.html").read_text()
    said = " ".join(section.split()).replace("95% interval", "")
    found = re.findall(r"(\d+\.\d)[^|\d\[\]]*(\[[-\d.]+, [-\d.]+\])", said)
    assert len(found) == len(re.findall(r"\[-?\d+\.\d", said))
    missing = [
        (value, interval)
        for value, interval in found
        if not re.search(rf"(?<![\d.]){re.escape(value)}(?: points, 95% interval)? {re.escape(interval)}", page)
    ]
    assert missing == []
    p_values = re.findall(r"p = ([\d.e-]+\d)", said)
    assert len(p_values) > 2
    assert [p for p in p_values if not re.search(rf"p = {re.escape(p)}(?: after Holm|\))", page)] == []


@pytest.mark.left_out
def test_the_page_has_the_plan_as_it_is_now(results: StudyResults) -> None:
    assert results.background.plan == (ROOT / "docs" / "smooth-vs-relu.md").read_text()


@pytest.mark.left_out
def test_the_trust_sentence_counts_the_runs_by_pgd(section: str, results: StudyResults) -> None:
    runs = [run.manifest for run in results.runs]
    trained = [run for run in runs if run.model.method != "standard"]
    pgd = [run for run in trained if run.attacks[0].tier == "PGD" and [one.eps for one in run.threats] == [8 / 255]]
    trust = [run.trust for run in pgd if run.trust is not None]
    verdicts = Counter(one.verdict for one in trust)
    sentences = [finding.sentence for one in trust for finding in one.findings if finding.check == "standing images"]
    estimates = [float(number) for text in sentences for number in re.findall(r"an estimated ([\d.]+)", text)]
    assert len(estimates) == len(pgd)
    said = " ".join(section.split())
    assert f": {len(results.networks)} networks," in said
    assert f"in the {len(pgd)} runs by PGD at 8/255 on adversarially trained networks" in said
    assert f"estimates the accuracy {min(estimates)} to {max(estimates)} points too high" in said
    assert f'calls {verdicts["not checked"]} of them "not checked" and {verdicts["pass"]} "pass"' in said
    assert set(verdicts) == {"not checked", "pass"}


@pytest.mark.left_out
def test_the_gap_between_autoattack_and_pgd_is_that_of_the_same_images(section: str, results: StudyResults) -> None:
    broken: dict[str, dict[str, pd.Series]] = {}
    for run in results.runs:
        (attack,) = run.manifest.attacks
        here = run.records[run.records["eps"] == 8 / 255]
        broken.setdefault(run.manifest.model.digest, {})[attack.label] = here.set_index("sample_id")["broken"]
    gaps = []
    for of in broken.values():
        if (strongest := of.get("AutoAttack standard")) is not None:
            gaps.append(100 * (strongest.mean() - of["PGD-10"][strongest.index].mean()))
    assert len(gaps) == 10
    said = f"AutoAttack breaks {min(gaps):.1f} to {max(gaps):.1f} points more of the same images than PGD-10"
    plan = (ROOT / "docs" / "smooth-vs-relu.md").read_text()
    assert said in " ".join(section.split())
    assert said.replace("AutoAttack breaks", "AutoAttack, which breaks") in " ".join(plan.split())


def test_networks_trained_again_on_another_cpu_have_the_outcomes_that_the_document_says() -> None:
    first, again = (
        {
            (run.manifest.model.seed, len(run.records)): run
            for run in read_results(file).runs
            if (run.manifest.model.recipe, run.manifest.model.activation) == (RECIPE, "elu")
        }
        for file in (REPORT / "parts" / "elu.json.gz", ELU_AND_CELU / RESULTS_FILE)
    )
    assert first.keys() == again.keys()
    assert all(run.manifest.numerics != again[key].manifest.numerics for key, run in first.items())
    outcomes = [
        run.records.set_index("sample_id")["broken"] != again[key].records.set_index("sample_id")["broken"]
        for key, run in first.items()
    ]
    said = f"of {sum(map(len, outcomes)):,} outcomes under PGD {sum(one.sum() for one in outcomes)} differ"
    assert said in " ".join((ROOT / "docs" / "training.md").read_text().split())
