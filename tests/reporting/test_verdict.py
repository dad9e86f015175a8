import random

import pytest

from satbench.core.errors import BadInput
from satbench.reporting.verdict import NOISE, compare, comparisons
from satbench.results.store import Run

from .made import AA, EPS, FGSM, PGD, MakeRun, first


def group(make_run: MakeRun, name: str, counts: list[int], n: int = 400) -> list[Run]:
    return [make_run(name, first(n, n), {(PGD, "Linf", EPS): first(c, n)}, seed=s) for s, c in enumerate(counts)]


def robust_sentence(runs: list[Run]) -> str:
    (sentence,) = [line for line in compare(runs) if "robust accuracy" in line]
    return sentence


def test_a_planted_difference_is_called_and_measured(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [160, 164, 168]) + group(make_run, "silu", [200, 204, 208])
    clean, robust = comparisons(runs)
    assert clean.verdict == NOISE
    assert clean.difference == 0
    assert (robust.verdict, robust.n, robust.difference, robust.seeds) == ("higher", 400, 0.1, (0, 1, 2))
    assert all((pair.only_a, pair.only_b) == (40, 0) for pair in robust.pairs)
    values = [(168 <= i < 208, 164 <= i < 204, 160 <= i < 200).count(True) / 3 for i in range(400)]
    half = 1.959963984540054 * (sum((value - 0.1) ** 2 for value in values) / 399 / 400) ** 0.5
    assert (robust.low, robust.high) == pytest.approx((0.1 - half, 0.1 + half))
    sentence = robust_sentence(runs)
    assert "silu is higher than that of relu: +10.0 points" in sentence
    assert "n = 400 images, 3 seeds each" in sentence
    assert "Linf 8/255 under PGD-50" in sentence


def test_lower_is_called_lower(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [200, 204]) + group(make_run, "silu", [150, 160])
    assert "silu is lower than that of relu: -11.7 points" in robust_sentence(runs)  # -94/800 = -11.75, towards zero


def test_overlapping_seeds_are_noise_even_when_the_images_decide(make_run: MakeRun) -> None:
    sentence = robust_sentence(group(make_run, "relu", [100, 190]) + group(make_run, "silu", [180, 220]))
    assert NOISE in sentence
    assert "(the seeds of the two groups overlap)" in sentence


def test_an_interval_over_0_is_noise_even_when_the_seeds_are_apart(make_run: MakeRun) -> None:
    shifted = [i >= 195 for i in range(400)]
    ours = [make_run("silu", first(400, 400), {(PGD, "Linf", EPS): shifted}, seed=s) for s in range(2)]
    sentence = robust_sentence(group(make_run, "relu", [200, 200]) + ours)
    assert NOISE in sentence
    assert "(the interval over images includes 0 and the exact test does not reject)" in sentence


def test_both_reasons_are_given(make_run: MakeRun) -> None:
    sentence = robust_sentence(group(make_run, "relu", [200, 201]) + group(make_run, "silu", [200, 201]))
    assert "includes 0 and the seeds of the two groups overlap" in sentence


def test_one_seed_says_that_it_is_one(make_run: MakeRun) -> None:
    sentence = robust_sentence(group(make_run, "relu", [100]) + group(make_run, "silu", [200]))
    assert "1 seed each" in sentence
    assert sentence.endswith("One seed cannot show what another seed would give.")


def test_the_interval_of_one_seed_is_tangos(make_run: MakeRun) -> None:
    """Two equal models: the score bound of n = 400 without a discordant pair is z^2 / (n + z^2), not 0."""
    runs = group(make_run, "relu", [100]) + group(make_run, "silu", [100])
    (found,) = [item for item in comparisons(runs) if "robust" in item.quantity]
    bound = 1.959963984540054**2 / (400 + 1.959963984540054**2)
    assert (found.low, found.high) == pytest.approx((-bound, bound))


def test_the_interval_alone_decides_nothing_where_the_exact_test_is_silent(make_run: MakeRun) -> None:
    """Four images against none of a hundred: p = 2 / 2^4, although the normal interval excludes 0."""
    runs = [
        make_run("relu", first(100, 100), {(PGD, "Linf", EPS): first(50, 100)}),
        make_run("silu", first(100, 100), {(PGD, "Linf", EPS): first(54, 100)}),
    ]
    (found,) = [item for item in comparisons(runs) if "robust" in item.quantity]
    assert found.low > 0
    assert found.pairs[0].p_value == pytest.approx(2 / 2**4)
    assert found.verdict == NOISE
    assert "the exact test does not reject" in found.sentence()


def test_headlines_are_the_threat_trained_for_with_pgd_and_the_worst_case(make_run: MakeRun) -> None:
    runs = []
    for name in ("relu", "silu"):
        outcomes = {(attack, "Linf", eps): first(20, 40) for attack in (PGD, FGSM) for eps in (EPS / 2, EPS)}
        runs.append(make_run(name, first(40, 40), outcomes))
        runs.append(make_run(name, first(30, 30), {(AA, "Linf", EPS): first(10, 30)}))
    quantities = [(item.quantity, item.n) for item in comparisons(runs)]
    assert quantities == [
        ("clean accuracy", 40),
        ("robust accuracy at Linf 8/255 under PGD-50", 40),
        ("robust accuracy at Linf 8/255 under worst case of AutoAttack standard, FGSM, PGD-50", 30),
        ("robust accuracy at Linf 4/255 under PGD-50", 40),
        ("robust accuracy at Linf 4/255 under worst case of FGSM, PGD-50", 40),
    ]
    shuffled = runs[:]
    random.Random(1).shuffle(shuffled)
    assert compare(shuffled) == compare(runs)


def test_an_attack_met_by_one_seed_is_compared_on_that_seed(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [100, 104]) + group(make_run, "silu", [200, 204])
    runs += [make_run(name, first(9, 9), {(AA, "Linf", EPS): first(4, 9)}) for name in ("relu", "silu")]
    assert [(item.seeds, item.n) for item in comparisons(runs)] == [((0, 1), 400), ((0, 1), 400), ((0,), 9)]


def test_what_cannot_be_compared_is_said(make_run: MakeRun) -> None:
    silu = group(make_run, "silu", [100])
    assert "no model with relu was measured" in compare(silu)[0]
    other_seed = [make_run("relu", first(400, 400), {(PGD, "Linf", EPS): first(90, 400)}, seed=7)]
    assert "no seed in common" in compare(silu + other_seed)[0]
    twin = [make_run("silu", first(400, 400), {(PGD, "Linf", EPS): first(90, 400)}, digest="twin")]
    assert "the networks with silu are not seeds of one model" in compare(silu + twin)[0]
    outcomes = {(PGD, "Linf", EPS): first(90, 400)}
    declared = [make_run("silu", first(400, 400), outcomes, digest=digest, group="mine") for digest in "ab"]
    assert "the networks with silu cannot be paired by seed" in compare(declared)[0]
    unknown = [make_run(name, first(400, 400), outcomes, recipe=None) for name in ("relu", "silu")]
    assert compare(unknown) == []
    assert compare([]) == []


def test_other_images_under_the_same_names_are_refused(make_run: MakeRun) -> None:
    ours = make_run("silu", first(4, 4), {(PGD, "Linf", EPS): first(2, 4)})
    theirs = make_run("relu", first(4, 4), {(PGD, "Linf", EPS): first(2, 4)}, hashed="other")
    with pytest.raises(BadInput, match="different images"):
        compare([ours, theirs])
