"""Which networks are averaged as seeds of one model, and how all others are told apart."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from satbench.data import load_images
from satbench.evaluation import evaluate
from satbench.evaluation.migrate import UNCHECKED, migrate
from satbench.reporting import page, plots
from satbench.reporting.leaderboard import build
from satbench.reporting.lines import network_names
from satbench.reporting.paired import compare_runs, to_markdown
from satbench.reporting.results_file import StudyResults
from satbench.reporting.summary import merge, summarise
from satbench.reporting.table_forms import to_csv
from satbench.reporting.tables import accuracy_table
from satbench.results.schema import ModelInfo
from satbench.results.store import Run

from .made import AA, EPS, PGD, MakeRun, first, old_summary, rows_in, trust

OTHER = {"recipe": None, "config": None, "seed": None, "method": None, "trained_for": None}  # not trained by satbench
DIGESTS = ("sha256:3f2a91c0ffff", "sha256:77aa00bb0000")


def build_networks(make_run: MakeRun, labels: tuple[str, str] = ("build", "build"), **more: object) -> list[Run]:
    """Two callables: 466 and 48 of 500 images are right as they are, 400 and 10 under attack."""
    return [
        make_run(
            None,
            first(clean, 500),
            {(PGD, "Linf", EPS): first(robust, 500)},
            label=label,
            digest=digest,
            **{**OTHER, **more},
        )
        for label, digest, (clean, robust) in zip(labels, DIGESTS, ((466, 400), (48, 10)), strict=True)
    ]


def lines_of(runs: list[Run]) -> list[tuple[object, ...]]:
    return [(line.model, line.seeds, line.clean, line.robust) for line in accuracy_table(summarise(runs))]


def test_two_networks_of_one_name_have_a_line_each_with_a_short_digest(make_run: MakeRun) -> None:
    runs = build_networks(make_run)
    expected = [("build (3f2a91c0)", 1, 0.932, 0.8), ("build (77aa00bb)", 1, 0.096, 0.02)]
    assert lines_of(runs) == lines_of(runs[::-1]) == expected


def test_the_digest_is_shown_only_where_names_coincide(make_run: MakeRun) -> None:
    names = [line[0] for line in lines_of(build_networks(make_run, ("net [a.index]", "net [b.index]")))]
    assert names == ["net [a.index]", "net [b.index]"]
    assert lines_of(build_networks(make_run)[:1])[0][0] == "build"


def test_a_seed_in_the_label_makes_no_seeds(make_run: MakeRun) -> None:
    names = [line[0] for line in lines_of(build_networks(make_run, ("vit seed 0", "vit seed 1")))]
    assert names == ["vit seed 0", "vit seed 1"]


def test_one_recipe_is_not_enough(make_run: MakeRun) -> None:
    """A recipe's name and a seed without a config, as released weights could have them, and configs that differ."""
    outcomes = {(PGD, "Linf", EPS): first(5, 10)}
    unknown = [make_run("silu", first(9, 10), outcomes, seed=seed, config=None) for seed in (0, 1)]
    assert [line[:2] for line in lines_of(unknown)] == [("digits-cnn (silu-0)", 1), ("digits-cnn (silu-1)", 1)]
    differ = [make_run("silu", first(9, 10), outcomes, seed=s, config=f"sha256:{s}{s}abcdefgh") for s in (0, 1)]
    assert [line[:2] for line in lines_of(differ)] == [
        ("digits-cnn (config 00abcdef)", 1),
        ("digits-cnn (config 11abcdef)", 1),
    ]


def test_equal_configs_with_different_seeds_are_one_line(make_run: MakeRun) -> None:
    runs = [
        make_run(
            "silu", first(9, 10), {(PGD, "Linf", EPS): first(4 + s, 10)}, seed=s, recipe=None, label=f"vit seed {s}"
        )
        for s in range(3)
    ]
    assert lines_of(runs) == [("vit", 3, 0.9, 0.5)]
    named = make_run("silu", first(9, 10), {(PGD, "Linf", EPS): first(1, 10)}, seed=3, recipe=None, label="mine")
    assert lines_of([*runs, named]) == [("mine", 1, 0.9, 0.1), ("vit", 3, 0.9, 0.5)]


def test_a_training_repeated_elsewhere_is_no_seed(make_run: MakeRun) -> None:
    """Seed 0 was trained on two machines: neither is averaged, the seeds 1 and 2 still are."""
    outcomes = {(PGD, "Linf", EPS): first(5, 10)}
    runs = [make_run("silu", first(9, 10), outcomes, seed=seed) for seed in range(3)]
    runs.append(make_run("silu", first(9, 10), outcomes, seed=0, digest="sha256:again000"))
    assert [line[:2] for line in lines_of(runs)] == [
        ("digits-cnn (again000)", 1),
        ("digits-cnn (config config-s)", 2),
        ("digits-cnn (silu-0)", 1),
    ]


def test_a_group_joins_what_its_user_says(make_run: MakeRun) -> None:
    runs = build_networks(make_run, group="five baselines")
    lines = accuracy_table(summarise(runs))
    (line,) = map(vars, lines)
    assert (line["model"], line["group"], line["seeds"]) == ("five baselines", "five baselines", 2)
    assert (line["clean"], line["clean_min"], line["clean_max"]) == (0.514, 0.096, 0.932)
    (stored,) = csv.DictReader(io.StringIO(to_csv(lines)))
    assert stored["digests"] == " + ".join(DIGESTS)
    named_alike = build_networks(make_run, ("five baselines", "x"))[:1]
    assert {line[0] for line in lines_of([*runs[1:], *named_alike])} == {
        "five baselines (group)",
        "five baselines (3f2a91c0)",
    }


def test_a_group_of_different_activations_states_none(make_run: MakeRun) -> None:
    runs = [
        make_run(name, first(9, 10), {(PGD, "Linf", EPS): first(5, 10)}, group="both", method="pgd-at")
        for name in ("relu", "silu")
    ]
    (line,) = map(vars, accuracy_table(summarise(runs)))
    assert (line["model"], line["activation"], line["method"], line["seeds"]) == ("both", "", "pgd-at", 2)


def test_equal_weights_under_two_names_stay_apart(make_run: MakeRun) -> None:
    """A defence without parameters has the weights of the network that it defends."""
    outcomes = {"plain": first(10, 50), "jpeg": first(30, 50)}
    runs = [
        make_run(None, first(45, 50), {(PGD, "Linf", EPS): right}, label=label, digest="sha256:same", **OTHER)
        for label, right in outcomes.items()
    ]
    assert [(line[0], line[3]) for line in lines_of(runs)] == [("jpeg", 0.6), ("plain", 0.2)]
    in_one_group = [
        make_run(
            None, first(45, 50), {(PGD, "Linf", EPS): right}, label=label, digest="same", **{**OTHER, "group": "g"}
        )
        for label, right in outcomes.items()
    ]
    assert [line[:2] for line in lines_of(in_one_group)] == [("jpeg", 1), ("plain", 1)]


def test_leaderboards_rank_and_doubt_each_network(make_run: MakeRun) -> None:
    outcomes = {(PGD, "Linf", EPS): first(40, 50)}
    runs = [
        make_run(None, first(45, 50), outcomes, label="build", digest=digest, trust=trust(verdict), **OTHER)
        for digest, verdict in zip(DIGESTS, ("fail", "pass"), strict=True)
    ]
    (board,) = json.loads(build(summarise(runs))["digits-Linf-8-255.json"])["boards"]
    assert [(row["rank"], row["model"], row["trust"]) for row in board["rows"]] == [(1, "build (77aa00bb)", "pass")]
    assert [row["model"] for row in board["unranked"]] == ["build (3f2a91c0)"]


def test_figures_have_a_curve_and_a_point_for_each_network(make_run: MakeRun) -> None:
    rows = summarise(build_networks(make_run))
    (curves,), (points,) = plots.robustness_curves(rows).axes, plots.clean_against_robust(rows).axes
    expected = np.array([[93.2, 80], [9.6, 2]])
    assert np.array([line.get_ydata() for line in curves.lines]) == pytest.approx(expected)
    assert np.array([line.get_xydata()[0] for line in points.lines]) == pytest.approx(expected)  # type: ignore[index]


def test_every_table_of_the_page_and_of_compare_tells_networks_apart(make_run: MakeRun, tmp_path: Path) -> None:
    runs = build_networks(make_run)
    text = page.write_report(tmp_path / "r", StudyResults("T", tuple(runs), {})).index.read_text()
    for short in ("build (3f2a91c0)", "build (77aa00bb)"):
        assert text.count(f'role="rowheader">{short}<') == 4  # two tables of accuracy, classes, trust
    assert all(digest in text for digest in DIGESTS)
    compared = to_markdown(compare_runs(*runs)).splitlines()
    assert compared[0].startswith("A: build (3f2a91c0), 500 images")
    assert compared[2].startswith("B: build (77aa00bb), 500 images")
    assert set(network_names(row.network for row in summarise(runs[:1])).values()) == {"build"}


def test_networks_of_one_label_are_named_by_seed_then_recipe_then_digest() -> None:
    told = [(0, "sat"), (1, "sat"), (1, "sat [epochs=2]"), (2, "sat"), (2, "sat"), (2, None), (None, "sat")]
    networks = [
        ModelInfo(ref="", digest=f"sha256:{digest * 64}", label="cnn relu", seed=seed, recipe=recipe)
        for digest, (seed, recipe) in zip("abcdef0", told, strict=True)
    ]
    named = ["cnn relu seed 0", "cnn relu seed 1, sat", "cnn relu seed 1, sat [epochs=2]"]
    named += [f"cnn relu ({digest * 8})" for digest in "def0"]
    assert [network_names(networks)[one] for one in networks] == named


@pytest.mark.left_out
def test_a_part_of_the_page_names_a_network_as_the_whole_does(make_run: MakeRun, tmp_path: Path) -> None:
    """The second network was not measured at the headline's radius."""
    radii = ((EPS, 2 * EPS), (2 * EPS,))
    runs = [
        make_run(
            None,
            first(9, 10),
            {(PGD, "Linf", eps): first(5, 10) for eps in chosen},
            label="build",
            digest=digest,
            recipe=None,
            config=None,
        )
        for digest, chosen in zip(DIGESTS, radii, strict=True)
    ]
    text = page.write_report(tmp_path / "r", StudyResults("T", tuple(runs), {})).index.read_text()
    headline = text[: text.index("<details>")]
    assert "build (3f2a91c0)" in headline
    assert "build<" not in text[: text.index("Measured networks")]


def test_a_new_row_replaces_the_old_one_of_the_same_network_alone(make_run: MakeRun) -> None:
    old = summarise(build_networks(make_run))
    better = build_networks(make_run, group="mine")
    assert [row.group for row in merge(old, summarise(better))] == ["mine", "mine"]
    one = merge(old, summarise(better[:1]))
    assert [(row.group, row.model_digest) for row in one] == [("mine", DIGESTS[0]), (None, DIGESTS[1])]
    renamed = summarise(build_networks(make_run, ("other", "name")))
    assert len(merge(old, renamed)) == 4
    attack = summarise(
        [make_run(None, first(4, 4), {(AA, "Linf", EPS): first(2, 4)}, label="build", digest=DIGESTS[0], **OTHER)]
    )
    assert len(merge(old, attack)) == 3


def test_a_summary_of_version_1_keeps_its_seeds_together(make_run: MakeRun, tmp_path: Path) -> None:
    """Version 1 took recipe, activation, method and threat for the model, as satbench's own trainings had made them."""
    outcomes = {(PGD, "Linf", EPS): first(5, 10)}
    runs = [make_run(name, first(9, 10), outcomes, seed=seed) for name in ("relu", "silu") for seed in (0, 1)]
    runs += build_networks(make_run)
    path = tmp_path / "runs.json"
    raw = old_summary(summarise(runs), 1)
    for entry in raw["rows"]:
        for key in ("config", "group", "threats", "draws", "weighted", "bad_gradients"):
            del entry[key]
        entry["trust"] = None
    path.write_text(json.dumps({"schema_version": 1, "rows": raw["rows"]}))
    assert [done for _, done in migrate(path)] == [f"schema 1 to 5, 6 files in {tmp_path / 'runs'}; {UNCHECKED}"]
    assert not path.exists()
    rows = rows_in(tmp_path / "runs")
    lines = accuracy_table(rows)
    assert [[line.model, line.activation, line.seeds] for line in lines] == [
        ["build (3f2a91c0)", "", 1],
        ["build (77aa00bb)", "", 1],
        ["digits-cnn", "relu", 2],
        ["digits-cnn", "silu", 2],
    ]
    assert {line.trust for line in lines} == {"not checked"}


def test_two_sequentials_measured_from_python_are_two_lines(tmp_path: Path) -> None:
    """Each puts every image into one class, so its accuracy is the share of that class, attacked or not."""
    labels = load_images("digits", "test").head(40).y
    runs, shares = {}, []
    for winner in (0, 1):
        linear = nn.Linear(64, 10)
        with torch.no_grad():
            linear.weight.zero_()
            linear.bias.copy_(torch.eye(10)[winner])
        model = nn.Sequential(nn.Flatten(), linear)
        run = evaluate(model, tmp_path / str(winner), "fgsm", eps="0.1", dataset="digits", n=40, trust=False)
        runs[run.manifest.model.short[:8]] = run
        shares.append((labels == winner).float().mean().item())
    assert shares[0] != shares[1]
    lines = accuracy_table(summarise(list(runs.values())))
    assert [line.model for line in lines] == sorted(f"Sequential ({digest})" for digest in runs)
    assert sorted(line.robust for line in lines) == pytest.approx(sorted(shares))
    assert [line.seeds for line in lines] == [1, 1]
