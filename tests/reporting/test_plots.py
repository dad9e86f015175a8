from pathlib import Path

import numpy as np
import pytest

from satbench.reporting import plots
from satbench.reporting.summary import summarise
from satbench.results.training_log import Epoch, Validated

from .made import EPS, PGD, MakeRun, first


def test_curves_start_at_clean_accuracy_and_average_the_seeds(make_run: MakeRun) -> None:
    runs = [
        make_run("silu", first(45, 50), {(PGD, "Linf", e * EPS): first(20 - 5 * e + s, 50) for e in (1, 2)}, seed=s)
        for s in range(3)
    ]
    (axes,) = plots.robustness_curves(summarise(runs)).axes
    assert axes.lines[0].get_xdata() == pytest.approx([0, 8, 16])
    assert axes.lines[0].get_ydata() == pytest.approx([90, 32, 22])
    assert "digits/test, Linf, PGD-50" in axes.get_title()
    assert "n = 50" in axes.get_title()


def test_scatter_has_a_point_a_seed_and_a_mean(make_run: MakeRun) -> None:
    runs = [make_run("silu", first(45, 50), {(PGD, "Linf", EPS): first(20 + s, 50)}, seed=s) for s in range(3)]
    (axes,) = plots.clean_against_robust(summarise(runs)).axes
    assert np.asarray(axes.collections[0].get_offsets()) == pytest.approx(np.array([[90, 40], [90, 42], [90, 44]]))
    assert axes.lines[0].get_xydata() == pytest.approx(np.array([[90, 42]]))


def test_training_curves_are_means_over_seeds_and_skip_what_was_not_measured() -> None:
    logs = {}
    for seed, (loss, robust) in enumerate(((1, 0.25), (2, 0.5), (6, 0.75))):
        val = Validated(n=4, figures={"clean": 1, "fgsm": 0.5, "robust": robust}, alone=1)
        logs[f"a seed {seed}"] = [
            Epoch(epoch=0, lr=0.1, train_loss=loss),
            Epoch(epoch=1, lr=0.1, train_loss=1, val=val),
        ]
    del logs["a seed 2"][1]  # this one ended early
    figure = plots.training_curves(logs | {"b": logs["a seed 0"]})
    assert [len(axes.lines) for axes in figure.axes] == [2, 2, 4]
    loss, _, robust = (axes.lines[0] for axes in figure.axes)
    assert loss.get_xydata() == pytest.approx(np.array([[1, 3], [2, 1]]))
    assert robust.get_xydata() == pytest.approx(np.array([[2, 37.5]]))
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert {low_or_high for x, low_or_high in band.tolist() if x == 1} == {1, 6}
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


@pytest.mark.left_out
def test_saved_figures_are_the_same_bytes(tmp_path: Path) -> None:
    rows = [Epoch(epoch=epoch, lr=0.1, train_loss=1 / epoch) for epoch in (1, 2)]
    one, two = (plots.save(plots.training_curves({"a": rows}), tmp_path / name, "t") for name in "ab")
    assert [path.name for path in one] == ["t.svg", "t.png"]
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in two]
