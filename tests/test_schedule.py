"""Learning rates as shares of their peak."""

import math

import pytest

from satbench.core.errors import BadInput
from satbench.recipes import RECIPES
from satbench.training.schedule import SCHEDULES, drawing, lr_factor, warmup
from satbench.training.stages import rates_of, stages_of

MIDDLES = [(step + 0.5) / 240 for step in range(240)]  # of the steps of a run


@pytest.mark.parametrize(
    ("name", "params", "points"),
    [
        ("one-cycle", {}, {0: 0, 0.15: 0.5, 0.3: 1, 0.65: 0.5, 1: 0}),
        ("triangle", {}, {0: 0, 0.25: 0.5, 0.5: 1, 0.75: 0.5, 1: 0}),
        ("triangle", {"peak": 0.4}, {0: 0, 0.2: 0.5, 0.4: 1, 0.7: 0.5, 1: 0}),
        ("triangle", {"peak": 0}, {0: 1, 0.25: 0.75, 1: 0}),
        ("cosine", {}, {0: 1, 1 / 3: 0.75, 0.5: 0.5, 1: 0}),
        ("piecewise", {}, {0: 1, 0.49: 1, 0.5: 0.1, 0.74: 0.1, 0.75: 0.01, 1: 0.01}),
        ("piecewise", {"milestones": [0.25, 0.5], "factor": 0.5}, {0.24: 1, 0.25: 0.5, 0.49: 0.5, 0.5: 0.25, 1: 0.25}),
        ("piecewise", {"milestones": []}, {0: 1, 1: 1}),
        ("constant", {}, {0: 1, 0.5: 1, 1: 1}),
    ],
)
def test_schedules_at_known_points(name: str, params: dict[str, object], points: dict[float, float]) -> None:
    for progress, expected in points.items():
        assert lr_factor(name, params, progress) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_is_a_share_of_the_peak(name: str) -> None:
    assert all(0 <= lr_factor(name, {}, progress) <= 1 for progress in MIDDLES)


@pytest.mark.parametrize("progress", MIDDLES[::7])
def test_one_cycle_and_cosine_keep_their_bits(progress: float) -> None:
    assert lr_factor("one-cycle", {}, progress) == (progress / 0.3 if progress < 0.3 else (1 - progress) / 0.7)
    assert lr_factor("cosine", {}, progress) == 0.5 * (1 + math.cos(math.pi * progress))


def test_milestones_fall_between_the_steps_of_their_epochs() -> None:
    """TRADES: a tenth in the last two of 76 epochs."""
    factors = [lr_factor("piecewise", {"milestones": [74 / 76]}, (step + 0.5) / (76 * 3)) for step in range(228)]
    assert factors == [1.0] * 74 * 3 + [0.1] * 6


@pytest.mark.parametrize("epochs", [1, 2, 7, 30, 400])
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_of_any_length_reduces_its_learning_rate(name: str, epochs: int) -> None:
    schedule = RECIPES[name]().with_values({"epochs": epochs}).schedule
    steps = 400 * epochs
    assert lr_factor(schedule.name, schedule.params, (steps - 0.5) / steps) <= 0.1 + 1e-12


@pytest.mark.parametrize(
    ("name", "params", "hint"),
    [
        ("one-cylce", {}, "one-cycle"),
        ("triangle", {"peek": 0.4}, "peak"),
        ("cosine", {"peak": 0.4}, "it takes none"),
        ("piecewise", {"epochs": 3}, "known: "),
        ("triangle", {"peak": 1}, "below 1"),
        ("triangle", {"peak": -0.1}, "below 1"),
        ("triangle", {"peak": "half"}, "half"),
        ("triangle", {"peak": float("nan")}, "nan"),
        ("piecewise", {"milestones": 75}, "shares of the run"),
        ("piecewise", {"milestones": "75,90"}, "shares of the run"),
        ("piecewise", {"milestones": [0, 0.5]}, "shares of the run"),
        ("piecewise", {"milestones": [0.5, 1]}, "shares of the run"),
        ("piecewise", {"factor": 2}, "from 0 to 1"),
    ],
)
def test_what_no_schedule_knows_is_refused(name: str, params: dict[str, object], hint: str) -> None:
    with pytest.raises(BadInput, match=hint):
        lr_factor(name, params, 0.1)


def test_a_warm_up_is_a_line_from_0_to_1() -> None:
    assert [warmup(epoch, 4) for epoch in (0, 1, 3, 4, 5)] == [0, 0.25, 0.75, 1, 1]
    assert warmup(0.25, 0.5) == 0.5
    assert warmup(0, 0) == 1


@pytest.mark.parametrize(("epochs", "second", "third"), [(30, 16, 23), (200, 101, 151)])
def test_a_drawing_shows_every_drop_of_the_rate_however_long_the_run(epochs: int, second: int, third: int) -> None:
    """Milestones at 1/2 and 3/4: half of the columns are full, the rest is at most a tenth of that."""
    config = RECIPES["cifar10-pgd-at"]().with_values({"epochs": epochs, "schedule": "piecewise"})
    blocks, numbers = drawing(rates_of(stages_of(config, 100)), epochs)
    assert blocks == "█" * 30 + "▂" * 15 + "▁" * 15
    assert numbers == f"0.1 in epoch 1, 0.01 in epoch {second}, 0.001 in epoch {third} (in the middle of each)"


def test_a_drawing_of_a_smooth_schedule_is_of_five_epochs() -> None:
    config = RECIPES["cifar10-pgd-at"]().with_values({"schedule": "cosine", "optimizer.lr": 0.2, "epochs": 101})
    blocks, numbers = drawing(rates_of(stages_of(config, 10_000)), 101)
    assert (len(blocks), blocks[0], blocks[-1]) == (60, "█", "▁")
    assert list(blocks) == sorted(blocks, reverse=True)
    shown = [part.split(" in epoch ") for part in numbers.removesuffix(" (in the middle of each)").split(", ")]
    assert [int(epoch) for _, epoch in shown] == [1, 26, 51, 76, 101]
    for rate, epoch in shown:
        assert float(rate) == pytest.approx(0.1 * (1 + math.cos(math.pi * (int(epoch) - 0.5) / 101)), rel=0.01)
