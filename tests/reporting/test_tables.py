import csv
import io
import json
import re

import pytest
from scipy.stats import binomtest

from satbench.reporting.summary import summarise
from satbench.reporting.table_forms import readable, to_csv, to_json, to_latex, to_markdown
from satbench.reporting.tables import accuracy_table

from .made import AA, EPS, PGD, MakeRun, first, trust


def test_seeds_are_joined_with_an_interval_on_distinct_images(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(45, 50), {(PGD, "Linf", EPS): first(20 + s, 50)}, seed=s) for s in range(3)]
    (line,) = map(vars, accuracy_table(summarise(runs)))
    assert (line["model"], line["seeds"], line["n"], line["eps"]) == ("digits-cnn", 3, 50, "8/255")
    assert line["robust"] == 21 / 50
    assert (line["robust_min"], line["robust_max"]) == (0.4, 0.44)
    assert (line["clean_min"], line["clean_max"]) == (0.9, 0.9)
    for key, count in (("robust", 21), ("clean", 45)):
        expected = binomtest(count, 50).proportion_ci(method="wilson")
        assert (line[f"{key}_lo"], line[f"{key}_hi"]) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_seeds_with_different_n_count_the_smallest(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(10, n), {(PGD, "Linf", EPS): first(5, n)}, seed=n) for n in (10, 20)]
    (line,) = map(vars, accuracy_table(summarise(runs)))
    assert (line["n"], line["robust"]) == (10, 0.375)


def test_the_reference_is_the_first_of_the_activations_of_each_attack(make_run: MakeRun) -> None:
    rates = {(PGD, "Linf", EPS): first(5, 10), (AA, "Linf", EPS): first(4, 10)}
    runs = [make_run(activation, first(9, 10), rates) for activation in ("silu", "elu", "relu")]
    activations = [line.activation for line in accuracy_table(summarise(runs), "relu")]
    assert activations[:3] == ["relu", "elu", "silu"]
    assert activations == activations[:3] * (len(activations) // 3)
    assert len(activations) > 3


def test_a_label_stands_in_for_a_missing_recipe_without_its_seed(make_run: MakeRun) -> None:
    runs = [
        make_run(
            "silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)}, seed=s, recipe=None, label=f"vit-s-16 seed {s}"
        )
        for s in range(2)
    ]
    (line,) = map(vars, accuracy_table(summarise(runs)))
    assert (line["model"], line["seeds"]) == ("vit-s-16", 2)


def test_every_form_tells_the_same(make_run: MakeRun) -> None:
    runs = [
        make_run(name, first(47, 53), {(a, "Linf", EPS): first(count, 53) for a in (PGD, AA)}, recipe="a_b & c|d 100%")
        for name, count in (("relu", 31), ("silu", 37))
    ]
    table = accuracy_table(summarise(runs))
    assert len(table) == 6
    cells = readable(table)["robust %"].tolist()
    stored = json.loads(to_json(table))["rows"]
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    markdown = [line for line in to_markdown(table).splitlines() if line.startswith("| a_b")]
    latex = [line for line in to_latex(table).splitlines() if line.startswith("a")]
    assert len(stored) == len(lines) == len(markdown) == len(latex) == 6
    for cell, exact, line, mark, tex in zip(cells, stored, lines, markdown, latex, strict=True):
        mean, low, high = map(float, re.findall(r"[\d.]+", cell))
        assert cell in mark
        assert cell.replace("[", "{[}").replace("]", "{]}") in tex
        assert [line[f"robust{end}_percent"] for end in ("", "_lo", "_hi")] == [f"{v:.1f}" for v in (mean, low, high)]
        assert low <= exact["robust_lo"] * 100
        assert high >= exact["robust_hi"] * 100
        assert 0 <= exact["robust"] * 100 - mean < 0.1
        assert int(line["n"]) == exact["n"] == 53
    assert r"a\_b \& c\textbar{}d 100\% & relu" in latex[0]
    assert r"a_b & c\|d 100%" in markdown[0]
    assert "distinct images" in to_markdown(table)


def test_latex_rows_have_the_columns_of_the_head(make_run: MakeRun) -> None:
    table = accuracy_table(summarise([make_run("silu", first(3, 4), {(PGD, "Linf", EPS): first(2, 4)})]))
    text = [line for line in to_latex(table).splitlines() if not line.startswith("%")]
    columns = len(re.fullmatch(r"\\begin\{tabular\}\{([lr]+)\}", text[0])[1])  # type: ignore[index]
    rows = [line for line in text if line.endswith(r"\\")]
    assert len(rows) == 2
    assert all(len(re.findall(r"(?<!\\)&", row)) == columns - 1 for row in rows)
    assert text[-1] == r"\end{tabular}"


def test_the_spread_between_seeds_stands_beside_the_interval_over_images(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(45 + s, 50), {(PGD, "Linf", EPS): first(20 + s, 50)}, seed=s) for s in range(3)]
    table = accuracy_table(summarise(runs))
    (line,) = readable(table).to_dict("records")
    assert (line["robust range over seeds %"], line["clean range over seeds %"]) == ("40.0 to 44.0", "90.0 to 94.0")
    (stored,) = csv.DictReader(io.StringIO(to_csv(table)))
    spread = [stored[f"{accuracy}_{end}_percent"] for accuracy in ("clean", "robust") for end in ("min", "max")]
    assert spread == ["90.0", "94.0", "40.0", "44.0"]
    assert "range over seeds" not in readable(accuracy_table(summarise(runs[:1]))).columns.str.cat()


def test_passes_an_image_are_a_mean_over_all_images_and_seeds(make_run: MakeRun) -> None:
    """40 of 50 attacked at 1000 + 10 passes, and 45 of 50 in another seed: 800 and 900, 8 and 9."""
    runs = [
        make_run("silu", first(c, 50), {(PGD, "Linf", EPS): first(20, 50)}, seed=c, passes=(1000, 10)) for c in (40, 45)
    ]
    rows = summarise(runs)
    table = accuracy_table(rows)
    assert [(line.forward, line.backward) for line in table] == [(850.0, 8.5)]
    assert readable(table)["passes an image"].tolist() == ["850 + 8.5"]
    assert "850.0,8.5" in to_csv(table)
    assert "mean over all n images" in to_markdown(table)
    old = accuracy_table([rows[0].model_copy(update={"forward": None}), rows[1]])
    assert [line.forward for line in old] == [None]
    assert "passes an image" not in readable(old)
    assert json.loads(to_json(old))["rows"][0]["forward"] is None


def test_verdicts_are_in_every_form_with_the_reason_and_the_next_attack(make_run: MakeRun) -> None:
    verdicts = {
        "relu": trust("suspicious", "it stays at 12% at eps 0.5", "square"),
        "silu": trust("fail", "a * NaN"),
        "gelu": None,
    }
    runs = [
        make_run(name, first(40, 50), {(PGD, "Linf", EPS): first(20, 50)}, trust=one) for name, one in verdicts.items()
    ]
    table = accuracy_table(summarise(runs))
    assert readable(table)["trust"].tolist() == ["not checked", "suspicious (try square)", "fail"]
    text = to_markdown(table)
    assert "- digits-cnn relu, suspicious (try square): growing eps: it stays at 12% at eps 0.5" in text
    assert r"- digits-cnn silu, fail: growing eps: a \* NaN" in text
    assert "digits-cnn gelu" not in text
    lines = list(csv.DictReader(io.StringIO(to_csv(table))))
    assert [line["trust"] for line in lines] == ["not checked", "suspicious", "fail"]
    assert (lines[1]["reasons"], lines[1]["next_attacks"]) == ("growing eps: it stays at 12% at eps 0.5", "square")
    assert json.loads(to_json(table))["rows"][2]["reasons"] == ["growing eps: a * NaN"]
    assert "fail" in to_latex(table)


def test_what_only_bounds_is_explained_where_it_stands(make_run: MakeRun) -> None:
    run = make_run("silu", first(40, 50), {("Rapid()", "Linf", EPS): first(20, 50)})
    assert "upper bound" in to_markdown(accuracy_table(summarise([run])))
    other = make_run("silu", first(40, 50), {(f"Transfer(attack={PGD}, source='b')", "Linf", EPS): first(20, 50)})
    assert "another model" in to_markdown(accuracy_table(summarise([other])))
    plain = make_run("silu", first(40, 50), {(PGD, "Linf", EPS): first(20, 50)})
    assert "bound" not in to_markdown(accuracy_table(summarise([plain]))).replace("interval bounds", "")
