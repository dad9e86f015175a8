import random

import numpy as np
import pytest
from scipy.stats import t

from satbench.core.errors import BadInput
from satbench.reporting.comparison import NOISE, OPEN, Comparison
from satbench.reporting.joined import join_runs
from satbench.reporting.verdict import compare, comparisons
from satbench.results.store import Run

from .made import AA, EPS, FGSM, PGD, MakeRun, first


def group(make_run: MakeRun, name: str, counts: list[int], n: int = 400) -> list[Run]:
    return [make_run(name, first(n, n), {(PGD, "Linf", EPS): first(c, n)}, seed=s) for s, c in enumerate(counts)]


def compared(runs: list[Run], every: bool = False) -> list[Comparison]:
    return comparisons(join_runs(runs), "relu", every)[0]


def robust_sentence(runs: list[Run]) -> str:
    (sentence,) = [line for line in compare(runs) if "robust accuracy" in line]
    return sentence


def test_a_planted_difference_is_called_and_measured(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [160, 164, 168]) + group(make_run, "silu", [200, 206, 208])
    clean, robust = compared(runs)
    assert clean.verdict == NOISE
    assert clean.difference == 0
    assert (robust.verdict, robust.n, robust.seeds) == ("higher", 400, (0, 1, 2))
    gaps = np.array([[low <= i < high for i in range(400)] for low, high in ((160, 200), (164, 206), (168, 208))])
    of_seeds, of_images = gaps.mean(axis=1).var(ddof=1) / 3, gaps.mean(axis=0).var(ddof=1) / 400
    freedom = (of_seeds + of_images) ** 2 / (of_seeds**2 / 2 + of_images**2 / 399)
    half = t.ppf(0.975, freedom) * (of_seeds + of_images) ** 0.5
    assert robust.difference == pytest.approx(122 / 1200)
    assert (robust.low, robust.high) == pytest.approx((122 / 1200 - half, 122 / 1200 + half))
    assert robust.p_value == pytest.approx(2 * t.sf(122 / 1200 / (of_seeds + of_images) ** 0.5, freedom))
    assert robust.bootstrap is not None
    assert robust.bootstrap == pytest.approx((robust.low, robust.high), abs=half / 4)
    sentence = robust_sentence(runs)
    assert "silu against relu is higher: +10.1 points" in sentence
    assert "n = 400 images, 3 seeds each; p = " in sentence
    assert "Linf 8/255 under PGD-50" in sentence


def test_lower_is_called_lower(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [200, 204]) + group(make_run, "silu", [150, 160])
    assert "silu against relu is lower: -11.7 points" in robust_sentence(runs)  # -94/800 = -11.75, towards zero


def test_seeds_that_disagree_are_noise_even_when_the_images_decide(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [100, 190]) + group(make_run, "silu", [180, 220])
    assert f"{NOISE}: +13.7 points" in robust_sentence(runs)  # of 20 and 7.5


def test_images_that_disagree_are_noise_even_when_the_seeds_are_apart(make_run: MakeRun) -> None:
    shifted = [i >= 195 for i in range(400)]
    ours = [make_run("silu", first(400, 400), {(PGD, "Linf", EPS): shifted}, seed=s) for s in range(2)]
    assert f"{NOISE}: +1.2 points" in robust_sentence(group(make_run, "relu", [200, 200]) + ours)


def test_p_values_are_adjusted_for_all_activations_of_a_quantity(make_run: MakeRun) -> None:
    """A p-value of 0.031 alone is 0.094 among three; the largest is as it was."""
    outcomes = {"relu": 50, "silu": 56, "gelu": 56, "elu": 51}
    runs = [
        make_run(name, first(100, 100), {(PGD, "Linf", EPS): first(count, 100)}) for name, count in outcomes.items()
    ]
    found = {one.activation: one for one in compared(runs) if "robust" in one.quantity}
    assert {name: one.p_value for name, one in found.items()} == pytest.approx(
        {"silu": 3 * 2 / 2**6, "gelu": 3 * 2 / 2**6, "elu": 1.0}
    )
    assert {name: one.verdict for name, one in found.items()} == {"silu": OPEN, "gelu": OPEN, "elu": NOISE}
    assert "p = 0.094 after Holm over 3" in found["silu"].sentence()
    (alone,) = [one for one in compared([runs[0], runs[1]]) if "robust" in one.quantity]
    assert (alone.p_value, alone.verdict) == (pytest.approx(2 / 2**6), "higher")


def test_a_changed_recipe_is_compared_with_the_recipe(make_run: MakeRun) -> None:
    changed = {"recipe": "digits-cnn [method.steps=1]", "family": "changed", "config": "changed"}
    outcomes = [{(PGD, "Linf", EPS): first(count, 400)} for count in (200, 206)]
    runs = group(make_run, "relu", [160, 164]) + group(make_run, "silu", [150, 154])
    runs += [
        make_run("relu", first(400, 400), one, seed=seed, digest=f"changed-{seed}", **changed)
        for seed, one in enumerate(outcomes)
    ]
    found = {one.activation: one for one in compared(runs) if "robust" in one.quantity}
    assert list(found) == ["silu", "relu [method.steps=1]"]
    assert (found["relu [method.steps=1]"].reference, found["relu [method.steps=1]"].together) == ("relu", 1)
    assert found["relu [method.steps=1]"].difference == pytest.approx(82 / 800)
    assert not any("nothing compared" in line for line in compare(runs))


def test_every_attack_is_compared_where_all_are_asked_for(make_run: MakeRun) -> None:
    outcomes = {(attack, "Linf", eps): first(20, 40) for attack in (PGD, FGSM) for eps in (EPS / 2, EPS)}
    runs = [make_run(name, first(40, 40), outcomes) for name in ("relu", "silu")]
    assert [one.quantity for one in compared(runs, every=True)] == [
        "clean accuracy",
        "robust accuracy at Linf 8/255 under FGSM",
        "robust accuracy at Linf 8/255 under PGD-50",
        "robust accuracy at Linf 4/255 under FGSM",
        "robust accuracy at Linf 4/255 under PGD-50",
    ]


def test_one_seed_says_that_it_is_one(make_run: MakeRun) -> None:
    sentence = robust_sentence(group(make_run, "relu", [100]) + group(make_run, "silu", [200]))
    assert "1 seed each" in sentence
    assert sentence.endswith("One seed cannot show what another seed would give.")


def test_the_interval_of_one_seed_is_tangos(make_run: MakeRun) -> None:
    """Two equal models: the score bound of n = 400 without a discordant pair is z^2 / (n + z^2), not 0."""
    runs = group(make_run, "relu", [100]) + group(make_run, "silu", [100])
    (found,) = [item for item in compared(runs) if "robust" in item.quantity]
    bound = 1.959963984540054**2 / (400 + 1.959963984540054**2)
    assert (found.low, found.high) == pytest.approx((-bound, bound))


def test_the_interval_alone_decides_nothing_where_the_exact_test_is_silent(make_run: MakeRun) -> None:
    """Four images against none of a hundred: p = 2 / 2^4, although the normal interval excludes 0."""
    runs = [
        make_run("relu", first(100, 100), {(PGD, "Linf", EPS): first(50, 100)}),
        make_run("silu", first(100, 100), {(PGD, "Linf", EPS): first(54, 100)}),
    ]
    (found,) = [item for item in compared(runs) if "robust" in item.quantity]
    assert found.low > 0
    assert found.p_value == pytest.approx(2 / 2**4)
    assert found.verdict == OPEN
    assert "is not separable: " in found.sentence()


def test_headlines_are_the_threat_trained_for_with_pgd_and_the_worst_case(make_run: MakeRun) -> None:
    runs = []
    for name in ("relu", "silu"):
        outcomes = {(attack, "Linf", eps): first(20, 40) for attack in (PGD, FGSM) for eps in (EPS / 2, EPS)}
        runs.append(make_run(name, first(40, 40), outcomes))
        runs.append(make_run(name, first(30, 30), {(AA, "Linf", EPS): first(10, 30)}))
    quantities = [(item.quantity, item.n) for item in compared(runs)]
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
    assert [(item.seeds, item.n) for item in compared(runs)] == [((0, 1), 400), ((0, 1), 400), ((0,), 9)]


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


def test_a_fault_of_one_activation_leaves_the_others_compared(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [160, 164]) + group(make_run, "silu", [200, 206]) + group(make_run, "gelu", [90, 92])
    twin = make_run("gelu", first(400, 400), {(PGD, "Linf", EPS): first(90, 400)}, digest="twin")
    assert {one.activation for one in compared([*runs, twin])} == {"silu"}
    assert any("gelu not compared, the networks with gelu are not seeds" in line for line in compare([*runs, twin]))
    twin = make_run("relu", first(400, 400), {(PGD, "Linf", EPS): first(90, 400)}, digest="twin")
    (said,) = compare([*runs, twin])
    assert "the networks with relu are not seeds of one model" in said


def test_seeds_with_fewer_images_than_most_are_left_out(make_run: MakeRun) -> None:
    runs = group(make_run, "relu", [160, 164, 168]) + group(make_run, "silu", [200, 206, 208])
    few = make_run("silu", first(40, 40), {(PGD, "Linf", EPS): first(20, 40)}, seed=2)
    clean, robust = compared([*runs[:-1], few])
    assert [(one.seeds, one.n) for one in (clean, robust)] == [((0, 1), 400), ((0, 1), 400)]
    said = [line for line in compare([*runs[:-1], few]) if "without seed 2" in line]
    assert len(said) == 2
    assert said[0].endswith(
        "clean accuracy of silu and relu compared without seed 2, of which 40 images were measured, "
        "and 400 of most seeds."
    )
    few = make_run("silu", first(40, 40), {(PGD, "Linf", EPS): first(20, 40)}, seed=1)
    both = compared([*runs[:2], runs[3], few])  # neither number is of most seeds
    assert {(one.seeds, one.n) for one in both} == {((0, 1), 40)}
