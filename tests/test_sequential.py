"""Tests of paired outcomes that hold at any number of images: against formulas, enumeration and simulation."""

import math
from itertools import pairwise, product

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from satbench.core.errors import BadInput
from satbench.regression.baseline import Measured, Outcomes
from satbench.regression.compare import Expected, Seen, judge
from satbench.results.metrics import Paired, paired_interval, score
from satbench.results.power import gate_images, images_needed, power, visible_drop
from satbench.results.sequential import (
    LEVEL,
    MISS,
    confidence,
    excludes,
    log_capital,
    looks,
    p_at_least,
    p_fixed,
    p_moved,
    p_published,
    paired,
)


def steps(*values: int) -> np.ndarray:
    return np.array(values, np.int8)


@pytest.mark.parametrize("mean", [-0.3, 0.0, 0.2])
@pytest.mark.parametrize("churn", [0.0, 0.3, 0.6])
def test_the_capital_is_a_martingale_where_the_mean_is_the_bound(mean: float, churn: float) -> None:
    """Its expectation over every path of five steps is 1, by enumeration."""
    down, up = (max(0.0, one) + churn / 2 for one in (-mean, mean))
    chances = {-1: down, 0: 1 - down - up, 1: up}
    expected = 0.0
    for path in product(chances, repeat=5):
        capital = log_capital(np.array(path.count(-1)), np.array(path.count(1)), np.array(5), mean)
        expected += math.prod(chances[one] for one in path) * math.exp(float(capital))
    assert expected == pytest.approx(1)


def test_evidence_grows_with_steps_of_one_sign_and_never_shrinks() -> None:
    lost = [p_at_least(steps(*[-1] * n), 0.0) for n in range(12)]
    assert lost == sorted(lost, reverse=True)
    assert lost[0] == 1
    assert 2**-11 < lost[11] < 5 * 2**-11  # a bettor cannot more than double at a step
    assert p_at_least(steps(*[-1] * 11, *[1] * 30), 0.0) == lost[11]


def test_no_flip_excludes_a_drop_after_the_images_that_betting_takes() -> None:
    """The largest stake multiplies the capital by 1 + s / (1 - s) at most, so n >= log(1 / miss) / -log(1 - s)."""
    fewest = next(n for n in range(1, 200) if excludes(np.zeros(n, np.int8), 0.05))
    assert math.log(1 / MISS) / -math.log(0.95) < fewest < 80
    assert not excludes(steps(-1, *[0] * fewest), 0.05)
    assert not excludes(np.zeros(5000, np.int8), 0.0)
    assert not excludes(np.zeros(5000, np.int8), 1.0)


def test_the_interval_holds_the_difference_and_turns_with_the_sides() -> None:
    seen = steps(*[-1] * 9, *[1] * 2, *[0] * 89)
    found, turned = confidence(seen), confidence(-seen)
    assert found.low < -0.07 < found.high
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))
    narrow = paired_interval(paired(seen))
    assert found.low < narrow[0] < narrow[1] < found.high


def test_the_fixed_test_is_mcnemars_and_beyond_a_tolerance_tangos() -> None:
    pair = paired(steps(*[-1] * 20, *[1] * 5, *[0] * 175))
    assert p_fixed(pair, 0.0) == pytest.approx(binomtest(5, 25).pvalue)
    low, high = paired_interval(pair)
    assert (score(pair, low), score(pair, high)) == pytest.approx((1.96, -1.96), abs=1e-4)
    assert p_fixed(pair, -high) == pytest.approx(0.05, abs=1e-6)
    assert p_fixed(pair, 0.075) == 1
    assert p_fixed(Paired(10, 0, 0, 1.0), 0.0) == 1


def test_all_images_add_the_fixed_test() -> None:
    seen = steps(*[1] * 3, *[0] * 40, *[-1] * 14)
    assert p_moved(seen, 0.0, is_whole=False) > LEVEL > p_moved(seen, 0.0, is_whole=True)
    assert p_moved(seen, 0.25, is_whole=True) > 0.5


def test_a_published_rate_is_tested_with_both_counts() -> None:
    assert p_published(450, 1000, 0.5, 10**9, 0.0) == pytest.approx(binomtest(450, 1000).pvalue, rel=0.05)
    assert p_published(450, 1000, 0.5, 1000, 0.0) > p_published(450, 1000, 0.5, 10_000, 0.0)
    assert p_published(450, 1000, 0.5, 10_000, 0.05) == 1
    assert p_published(0, 10, 0.0, 10, 0.0) == 1


def test_looks_grow_to_all_images() -> None:
    assert list(looks(30)) == [30]
    found = list(looks(1000))
    assert found[0] == 64
    assert found[-1] == 1000
    assert all(a < b <= 1.2 * a + 1 for a, b in pairwise(found))
    assert list(looks(1000, unit=250)) == [250, 500, 1000]


def test_power_is_that_of_the_test_summed_by_hand() -> None:
    """Without churn every flip goes down, so the test rejects from the first count with 2 / 2^k below the level."""
    assert power(100, 0.08, 0.0, 0.05) == pytest.approx(binom.sf(5, 100, 0.08))
    rng = np.random.default_rng(0)
    down, up, _ = rng.multinomial(300, [0.06, 0.01, 0.93], size=4000).T
    found = np.mean(2 * binom.cdf(np.minimum(down, up), down + up, 0.5) < 0.05)
    assert power(300, 0.05, 0.02, 0.05) == pytest.approx(found, abs=4 * math.sqrt(0.1 * 0.9 / 4000))


def test_images_and_drop_are_each_others_inverse() -> None:
    n = images_needed(0.05, 0.01, 0.05)
    assert power(n, 0.05, 0.01, 0.05) >= 0.9 > power(n - 2, 0.05, 0.01, 0.05)
    more = gate_images(0.05, 0.01, 3)
    assert more > n
    seen = visible_drop(more, 0.01, 3)
    assert seen is not None
    assert 0.045 <= seen <= 0.05
    assert visible_drop(3, 0.01, 3) is None
    assert gate_images(0.05, 0.01, 3, 0.02) > images_needed(0.05, 0.01, 0.05)
    with pytest.raises(BadInput, match=r"0\.0001 points needs over"):
        images_needed(1e-6, 0.01, 0.05)


def outcome(drop: float, churn: float, images: int, rng: np.random.Generator, wanted: float) -> tuple[bool, int]:
    """Whether the gate calls one of two figures changed, and after how many images; the first drops."""
    names, old = ["a", "b"], rng.random((2, images)) < 0.8
    down = np.array([[drop / 0.8], [0.0]]) + churn / 1.6
    new = old ^ (rng.random(old.shape) < np.where(old, down, churn / 0.4))
    held = dict(zip(names, map(Outcomes.of, old), strict=True))
    approved = Measured(network="", training=None, asked="", data="", numerics="", trust=None, figures=held)
    expected = Expected("suite", approved, {}, {}, wanted, images)
    for n in looks(images):
        figures = {name: right[:n] for name, right in zip(names, new, strict=True)}
        (found,) = judge([(expected, Seen([""] * n, figures, "", None, "", None, 0))])
        if found.state != "open":
            return found.state == "changed", n
    raise AssertionError("the last look settles it")


@pytest.mark.parametrize(
    ("true_drop", "rate", "cost"), [(0.0, (0, 0.05), 0.5), (0.1, (0.9, 1), 1.0), (0.2, (0.9, 1), 0.5)]
)
def test_stated_error_rates_hold_and_clear_cases_take_few_images(
    true_drop: float, rate: tuple[float, float], cost: float
) -> None:
    """30 re-measurements; `benchmarks/gate.py` has thousands. A rate outside its bound has p < 0.001."""
    churn, runs, rng = 0.005, 30, np.random.default_rng(1)
    images, fixed = gate_images(0.05, churn, 2), images_needed(0.05, churn, LEVEL / 2)
    found = [outcome(true_drop, churn, images, rng, 0.05) for _ in range(runs)]
    called = sum(changed for changed, _ in found)
    assert binomtest(called, runs, rate[1], "greater").pvalue > 0.001
    assert binomtest(called, runs, rate[0], "less").pvalue > 0.001
    taken = [n / fixed for _, n in found]
    assert np.mean(taken) - 3 * np.std(taken) / math.sqrt(runs) <= cost
