"""The trust battery: every spoilt network is doubted, no honest one is, and nothing is left changed."""

import gzip
import os
import random
import re
import sys
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from attack_contract import assert_unchanged, state
from held_back_networks import MASKED, PLAIN
from torch import Tensor, nn
from trust_networks import BAD, HONEST, THREAT, WIDE_THREAT, Around, Network, images, plain
from typer.testing import CliRunner

from satbench.attacks import PGD
from satbench.attacks.base import info_of
from satbench.cli import app
from satbench.core.eps import Threat
from satbench.core.errors import BadInput
from satbench.data.images import image_set
from satbench.evaluation.compute import measure
from satbench.evaluation.migrate import attack_of
from satbench.numerics.seeding import generator
from satbench.numerics.threat import ThreatModel
from satbench.reporting.trust_page import write_trust
from satbench.results.metrics import wilson
from satbench.results.schema import DataInfo, Finding, ModelInfo, Trust
from satbench.specs.attack import AttackInfo
from satbench.trust import ASKS, examine
from satbench.trust.records import RECORD_CHECKS
from satbench.trust.search import ascent, random_squares
from satbench.trust.seen import Seen
from satbench.trust.standing import Left, inflation
from satbench.trust.subject import Counting, Subject, Tally, undisturbed

pytestmark = pytest.mark.numeric

QUICK = 2000  # passes: a tenth of what PGD-10 takes for a thousand images
ANCHORS = Path(os.environ.get("SATBENCH_ANCHORS", Path(__file__).parents[1] / ".." / "shared" / "data" / "anchors"))
needs_anchors = pytest.mark.skipif(not (ANCHORS / "mnist_fgsm_cnn.pth").is_file(), reason="the anchors are not here")


@cache
def built(kind: str, name: str) -> nn.Module:
    return {"bad": BAD, "honest": HONEST}[kind][name].build()


def checked(model: nn.Module, network: Network, n: int | None = None, **how: Any) -> Trust:
    shown = images(network.colours, network.classes)
    return examine(model, shown.head(min(n or len(shown), len(shown))), network.threat, **how)


def found(trust: Trust) -> dict[str, Finding]:
    return {finding.check: finding for finding in trust.findings}


def doubts(trust: Trust) -> set[str]:
    return {finding.check for finding in trust.findings if finding.outcome in ("suspicious", "fail")}


def spent(model: nn.Module, network: Network, n: int, steps: int) -> Trust:
    """The trust that `evaluate` gives to a run of PGD with so many steps."""
    shown = images(network.colours, network.classes)
    shown = shown.head(min(n, len(shown)))
    measured = measure(model, shown, [PGD(steps=steps)], [network.threat], 0, 256, torch.device("cpu"))
    found = measured.records
    budget = int(found[["forward", "backward"]].to_numpy().sum()) // 10
    trust = examine(model, shown, network.threat, budget=budget, records=found, attacks=measured.attacks)
    assert trust.forward + trust.backward <= budget
    return trust


def test_there_are_enough_networks_and_one_for_every_check() -> None:
    assert len(BAD) >= 12
    assert len(HONEST) >= 20
    assert {check for network in BAD.values() for check in network.caught_by} == set(ASKS) - {"transfer"}


# one for every check of the quick form
FEW_BAD = ("logits times 1e3", "quantised, straight through", "noise", "dropout left on", "batch statistics")
FEW_BAD += ("pixels to 255", "misled off the scans", "jumps", "shattered", "saturated logits", "probabilities")
FEW_HONEST = ("digits-silu", "standard mlp", "certified", "logits times 10", "L2", "L1")


def some(networks: dict[str, Network], few: tuple[str, ...]) -> list[Any]:
    return [pytest.param(name, marks=() if name in few else pytest.mark.slow) for name in networks]


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", some(BAD, FEW_BAD))
def test_a_bad_network_is_caught_by_the_quick_form(name: str) -> None:
    trust = checked(built("bad", name), BAD[name], budget=QUICK)
    assert doubts(trust) & set(BAD[name].caught_by)
    assert trust.verdict in ("suspicious", "fail")
    assert trust.forward + trust.backward <= QUICK


@pytest.mark.one_in(5)
@pytest.mark.parametrize("name", some(HONEST, FEW_HONEST))
def test_an_honest_network_is_doubted_for_what_stands_alone(name: str) -> None:
    """10 steps of PGD leave images that a stronger attack breaks on some of them, which is no fault of theirs."""
    assert doubts(checked(built("honest", name), HONEST[name], budget=QUICK)) <= {"standing images"}


def test_what_a_masked_run_left_standing_falls_within_a_tenth_of_its_passes() -> None:
    for name in ("saturated logits", "shattered", "logits times 1e3"):
        finding = found(spent(built("bad", name), BAD[name], 250, 10))["standing images"]
        assert finding.outcome == "suspicious", name
        assert "too high by at least" in finding.sentence
        assert finding.next_attack in ("square", "autoattack")


def test_a_sound_number_passes_where_the_passes_suffice() -> None:
    trust = spent(plain(), HONEST["standard mlp"], 250, 50)
    assert trust.verdict == "pass", trust.findings
    assert "points too high" in found(trust)["standing images"].sentence


def test_a_census_has_no_interval() -> None:
    sentence = found(spent(plain(), HONEST["standard mlp"], 60, 300))["standing images"].sentence
    assert re.search(r", which were all: by these searches \d+\.\d points too high[.;]", sentence), sentence


def test_a_check_without_power_says_what_it_takes() -> None:
    trust = spent(plain(), HONEST["standard mlp"], 100, 10)
    finding = found(trust)["standing images"]
    assert (trust.verdict, finding.outcome) == ("not checked", "not checked")
    assert re.search(r"takes about [0-9,]+ passes", finding.sentence)
    assert "satbench trust MODEL --norm Linf --eps 0.1" in finding.sentence


@pytest.mark.parametrize("n", [1, 4, 15])
def test_few_images_are_no_ground_for_a_verdict(n: int) -> None:
    for model in (plain(), built("bad", "shattered"), built("bad", "saturated units")):
        assert spent(model, BAD["shattered"], n, 10).verdict == "not checked"
    assert checked(built("bad", "raises"), BAD["raises"], n=n).verdict == "fail"


def test_one_draw_of_a_random_network_decides_nothing() -> None:
    trust = spent(built("bad", "noise"), BAD["noise"], 100, 10)
    assert found(trust)["randomness"].outcome == "suspicious"
    finding = found(trust)["standing images"]
    assert (finding.outcome, finding.next_attack) == ("not checked", "autoattack:version=rand")
    assert "direction" not in doubts(trust)


def test_a_number_near_zero_cannot_be_too_high() -> None:
    trust = spent(plain(), Network(plain, threat=ThreatModel("Linf", 0.5)), 250, 10)
    assert found(trust)["standing images"].outcome == "pass"


def test_the_smaller_radius_is_searched_where_nothing_stands_at_the_larger() -> None:
    network, shown = BAD["shattered"], images().head(200)
    threats = [ThreatModel("Linf", 0.05), ThreatModel("Linf", 1.0)]
    measured = measure(plain(), shown, [PGD()], threats, 0, 256, torch.device("cpu"))
    given: dict[str, Any] = {"records": measured.records, "attacks": measured.attacks, "budget": 2000}
    finding = found(examine(plain(), shown, threats[1], **given))["standing images"]
    assert "stand at Linf 0.05" in finding.sentence
    with pytest.raises(BadInput, match="not of these images"):
        examine(plain(), images().take(range(200, 300)), network.threat, **given)


def test_the_estimate_of_inflation_counts_what_fell_and_bounds_the_rest() -> None:
    left = Left(lambda _: (torch.empty(0), torch.empty(0)), THREAT, 200, np.arange(100) % 2 == 1, (torch.empty(0),) * 2)
    fallen = np.zeros(100, dtype=bool)
    fallen[[0, 2, 4]] = True  # none of the random ones
    estimate, high = inflation(left, fallen, 40)
    assert estimate == 3 / 200
    assert high == pytest.approx((3 + 60 * wilson(0, 20)[1]) / 200)
    fallen[[1, 3]] = True
    assert inflation(left, fallen, 40)[0] == pytest.approx((5 + 60 * 2 / 20) / 200)
    assert inflation(left, fallen, 100) == (5 / 200, 5 / 200)


def test_logits_are_judged_by_their_differences() -> None:
    network = HONEST["standard mlp"]
    offset = found(checked(Around(plain(), after=lambda z: z + 2e4), network, budget=QUICK))["outputs"]
    assert offset.outcome == "pass"
    for factor in (1e3, 1e-6):
        scaled = found(checked(Around(plain(), after=lambda z, by=factor: by * z), network, budget=QUICK))["outputs"]
        assert (scaled.outcome, scaled.next_attack) == ("suspicious", "pgd:loss=margin")


def test_dead_gradients_and_ties_are_no_wrong_direction() -> None:
    class Bright(nn.Module):
        """Constant, and provably robust, where the image is not bright."""

        def forward(self, x: Tensor) -> Tensor:
            bright = (x.flatten(1).mean(1, keepdim=True) - 0.32).relu()
            return torch.cat([torch.ones_like(bright), 8 * bright, torch.zeros_like(bright)], dim=1).repeat(1, 4)[
                :, :10
            ]

    finding = found(checked(Bright(), HONEST["standard mlp"], budget=QUICK))["direction"]
    assert finding.outcome == "pass"
    left_out = int(re.search(r"ball, (\d+) of (\d+) images", finding.sentence)[1])  # type: ignore[index]
    assert 0 < left_out < 16


def test_a_gradient_that_is_not_the_networks_is_noticed() -> None:
    other = built("honest", "standard cnn, elu")

    class Decoy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            shown = other(x)
            return shown + (plain()(x) - shown).detach()

    assert found(checked(Decoy(), HONEST["standard mlp"], budget=QUICK))["direction"].outcome == "suspicious"


def test_a_transferred_search_goes_on_after_the_source_errs() -> None:
    target, source, shown = built("honest", "digits-silu"), plain(), images().head(150)
    with undisturbed(target, shown.y.device) as moved:
        tally = Tally()
        other = Counting(source, tally)
        subject = Subject(Counting(target, tally), shown.x, shown.y, shown.ids, WIDE_THREAT, 0, other, 256, moved)
        right = subject.answer(shown.x).argmax(1) == shown.y
        every = ascent(subject, WIDE_THREAT, shown.x, shown.y, 20, 2, generator(0), source=other) & right
    fell = {}
    for keep in ("best", "last"):  # "best" stops where the source errs
        x_adv = PGD(steps=20, loss="margin", init="zero", keep=keep)(
            source, shown.x, shown.y, WIDE_THREAT, generator(0)
        )
        fell[keep] = int(((target(x_adv).argmax(1) != shown.y) & right).sum())
    assert every.sum() >= fell["last"] > 2 * fell["best"]


@pytest.mark.slow
@pytest.mark.parametrize("name", MASKED)
def test_a_held_back_mask_does_not_pass(name: str) -> None:
    assert spent(MASKED[name].build(), MASKED[name], 250, 50).verdict != "pass"


@pytest.mark.slow
@pytest.mark.parametrize("name", PLAIN)
def test_a_held_back_network_that_hides_nothing_is_doubted_for_what_stands_alone(name: str) -> None:
    """Examples in hand prove those numbers too high; AutoAttack agrees on every one (benchmarks/trust.py)."""
    assert doubts(spent(PLAIN[name].build(), PLAIN[name], 250, 50)) <= {"standing images"}


@pytest.mark.slow
@pytest.mark.parametrize("name", BAD)
def test_a_bad_network_is_caught_by_the_full_form(name: str) -> None:
    trust = checked(built("bad", name), BAD[name], n=64, depth="full")
    assert doubts(trust) & set(BAD[name].caught_by)
    assert trust.verdict != "pass"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", HONEST)
def test_an_honest_network_is_not_flagged_by_the_full_form(name: str) -> None:
    trust = checked(built("honest", name), HONEST[name], n=64, depth="full")
    assert trust.verdict == "pass"
    assert not doubts(trust)


ATTACKED = {
    "more effort": "misled off the scans",
    "large radius": "misled off the scans",
    "black box": "shattered",
}


@pytest.mark.slow
@pytest.mark.parametrize("check", ATTACKED)
def test_a_check_that_attacks_catches_its_network(check: str) -> None:
    name = ATTACKED[check]
    assert check in doubts(checked(built("bad", name), BAD[name], n=64, depth="full"))


def test_missing_and_nan_gradients_and_dead_networks_fail() -> None:
    names = ("detached input", "square root", "quantised input", "NaN logits", "raises", "constant", "pixels to 255")
    for name in names:
        assert checked(built("bad", name), BAD[name], budget=QUICK).verdict == "fail", name
    seen = found(checked(built("bad", "square root"), BAD["square root"], budget=QUICK))
    assert "NaN or infinite" in seen["gradients"].sentence
    seen = found(checked(built("bad", "raises"), BAD["raises"], budget=QUICK))
    assert "RuntimeError: no kernel for this device" in seen["outputs"].sentence


def test_a_doubt_names_the_attack_to_try() -> None:
    for name, check, attack in [
        ("noise", "randomness", "autoattack:version=rand"),
        ("logits times 1e3", "gradients", "pgd:loss=margin"),
        ("misled", "direction", "square"),
    ]:
        assert found(checked(built("bad", name), BAD[name], budget=QUICK))[check].next_attack == attack


@pytest.mark.slow
def test_a_transferred_example_shows_what_gradients_hide() -> None:
    network = BAD["shattered"]
    trust = checked(built("bad", "shattered"), network, n=32, source=plain(), depth="full")
    assert found(trust)["transfer"].outcome == "suspicious"
    honest = checked(plain(), network, n=32, source=built("honest", "standard cnn, elu"), depth="full")
    assert found(honest)["transfer"].outcome == "pass"
    with pytest.raises(BadInput, match="examples cannot be made on the other network"):
        checked(plain(), network, n=32, source=built("bad", "raises"), depth="full")
    assert (
        "transfer (no other network is given)"
        in found(checked(plain(), network, n=16, depth="full"))["coverage"].sentence
    )


class Passing(nn.Module):
    """Counts rows by itself."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner, self.forwards, self.backwards = inner, 0, 0

    def forward(self, x: Tensor) -> Tensor:
        self.forwards += len(x)
        if x.requires_grad:
            x = x.view_as(x)
            x.register_hook(self.count)
        return self.inner(x)

    def count(self, grad: Tensor) -> None:
        self.backwards += len(grad)


@pytest.mark.left_out
@pytest.mark.parametrize("budget", [None, 5000, 300, 0])
def test_the_passes_are_those_really_taken(budget: int | None) -> None:
    model = Passing(plain())
    trust = checked(model, HONEST["standard mlp"], budget=budget)
    assert (trust.forward, trust.backward) == (model.forwards, model.backwards)
    if budget is not None:
        assert trust.forward + trust.backward <= budget


def test_what_does_not_fit_is_not_checked() -> None:
    nothing = checked(plain(), HONEST["standard mlp"], budget=0)
    assert nothing.verdict == "not checked"
    assert {finding.outcome for finding in nothing.findings} == {"not checked", "pass"}
    assert "satbench trust" in found(nothing)["outputs"].sentence
    with pytest.raises(BadInput, match="budget"):
        checked(plain(), HONEST["standard mlp"], budget=400, depth="full")


def test_everything_is_left_as_it_was_found() -> None:
    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            random.random()
            np.random.rand()
            return x + 0 * torch.rand_like(x)

    model = nn.Sequential(Drawing(), nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
    model[3].eval()
    model[4].weight.requires_grad_(False)
    model[4].bias.grad = torch.ones(10)
    before = state(model)
    checked(model, HONEST["standard mlp"], budget=QUICK)
    assert_unchanged(before, state(model))


@pytest.mark.parametrize(("weight", "outcome"), [(0.0, "pass"), (0.01, "suspicious")])
@pytest.mark.parametrize("in_place", [True, False])
def test_a_buffer_that_moves_is_told_and_put_back(in_place: bool, weight: float, outcome: str) -> None:
    """A counter of passes changes no answer; a state that later answers depend on does."""

    class Adapting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("seen", torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            self.seen = self.seen.add_(len(x)) if in_place else self.seen + len(x)
            return x * (1 - weight * self.seen)

    model = nn.Sequential(Adapting(), plain())
    buffer = model[0].seen
    finding = found(checked(model, HONEST["standard mlp"], budget=QUICK))["modes"]
    assert finding.outcome == outcome
    assert "0.seen" in finding.sentence
    assert model[0].seen is buffer
    assert buffer == 0


@pytest.mark.one_in(3)
@pytest.mark.parametrize(("kind", "name"), [("honest", "digits-silu"), ("bad", "noise"), ("bad", "random shift")])
def test_equal_arguments_give_equal_findings(kind: str, name: str) -> None:
    model, network = built(kind, name), {"bad": BAD, "honest": HONEST}[kind][name]
    torch.manual_seed(1)
    first = checked(model, network, budget=QUICK)
    torch.manual_seed(2)
    assert checked(model, network, budget=QUICK) == first
    assert checked(model, network, budget=QUICK, seed=1) != first


def test_memory_that_does_not_suffice_is_no_finding() -> None:
    def scarce(x: Tensor) -> Tensor:
        if len(x) > 8:
            raise torch.OutOfMemoryError("too many images")
        return x

    trust = checked(Around(plain(), before=scarce), HONEST["standard mlp"], budget=4 * QUICK)
    assert not doubts(trust)
    with pytest.raises(torch.OutOfMemoryError):
        checked(Around(plain(), before=lambda x: scarce(x.repeat(9, 1, 1, 1))), HONEST["standard mlp"])


@pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
def test_no_radius_is_no_trouble(norm: str) -> None:
    still = examine(plain(), images().head(20), ThreatModel(norm, 0))
    assert still.verdict == "pass"
    assert "the radius is 0" in found(still)["coverage"].sentence


def test_the_search_over_squares_breaks_only_what_can_be_broken() -> None:
    draws = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 1, 6, 6, generator=draws)
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 2, bias=False))
    model[1].weight.data = torch.stack([weight[0].flatten(), -weight[0].flatten()])
    x = 0.3 + 0.4 * torch.rand(200, 1, 6, 6, generator=draws)
    for norm, dual in (("Linf", 1), ("L2", 2), ("L1", float("inf"))):
        eps = {"Linf": 0.05, "L2": 0.25, "L1": 0.3}[norm]
        height = 2 * (x.flatten(1) @ weight[0].flatten())  # of the first logit over the second
        reach = 2 * eps * float(torch.linalg.vector_norm(weight[0].flatten(), dual))  # the box is far away
        y = (height < 0).long()
        with undisturbed(model, x.device) as moved:
            subject = Subject(Counting(model, Tally()), x, y, ("",) * 200, ThreatModel(norm, eps), 0, None, 256, moved)
            fallen = random_squares(subject, subject.threat, x, y, 300, generator(0))
        assert not (fallen & (height.abs() > reach * 1.0001)).any()
        easy = height.abs() < 0.3 * reach
        assert easy.sum() > 5
        assert fallen[easy].float().mean() > 0.8


WHITE = "PGD(steps={}, step_size=None, loss='ce', init='uniform', restarts={}, keep='best')"
SQUARE = "AutoAttackComponent(name='square', unit=250)"


def records(n: int = 500, **broken: Any) -> pd.DataFrame:
    """Records of attacks, each given as how many of `n` images it breaks, or which; all are right as they are.

    Those whose names hold "white" or "PGD" took gradients.
    """
    ids = [*images().ids, *(f"{i}" for i in range(n))][:n]
    frames = []
    for attack, which in broken.items():
        rows = range(which) if isinstance(which, int) else which
        frames.append(
            pd.DataFrame(
                {
                    "sample_id": ids,
                    "label": 1,
                    "clean_prediction": 1,
                    "attack": attack,
                    "norm": "Linf",
                    "eps": 0.1,
                    "broken": [i in rows for i in range(n)],
                    "fell_at": [1 if i in rows else -1 for i in range(n)],
                    "stage": "",
                    "forward": 1,
                    "backward": int("square" not in attack),
                    "margin": -1.0,
                    "violation": "",
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def described(frame: pd.DataFrame) -> dict[str, AttackInfo]:
    """What a run says of the attacks that these records name."""
    return {id: info_of(attack_of(id)) for id in frame["attack"].unique()}


def from_records(frame: pd.DataFrame) -> dict[str, Seen]:
    seen = {name: look(frame, described(frame)) for name, look in RECORD_CHECKS.items()}
    return {name: one for name, one in seen.items() if one is not None}


def staged(removed: int, n: int = 500) -> pd.DataFrame:
    frame = records(n, **{"AutoAttack(version='standard', components='', unit=250)": 80 + removed})
    white, black = "AutoAttackComponent(name='apgd-t', unit=250)", SQUARE
    frame.loc[: 79 + removed, "stage"] = [white] * 80 + [black] * removed
    return frame


def test_a_square_stage_that_removes_points_is_suspicious() -> None:
    seen = from_records(staged(17))["records, black-box stage"]
    assert (seen.outcome, seen.next_attack) == ("suspicious", "autoattack:version=plus")
    assert "17 of 500 (3.4% [2.1, 5.4])" in seen.sentence
    assert from_records(staged(1))["records, black-box stage"].outcome == "pass"
    assert "records, black-box stage" not in from_records(records(**{SQUARE: 30}))


def test_a_black_box_attack_that_breaks_other_images_is_suspicious() -> None:
    white = WHITE.format(50, 1)
    beyond = records(**{white: range(100), SQUARE: range(80, 120)})
    assert from_records(beyond)["records, black-box attack"].outcome == "suspicious"
    within = records(**{white: range(100), SQUARE: range(62, 102)})
    assert from_records(within)["records, black-box attack"].outcome == "pass"


def test_more_steps_or_restarts_that_help_the_defender_are_suspicious() -> None:
    short, long, often = WHITE.format(10, 1), WHITE.format(100, 1), WHITE.format(100, 5)
    frame = records(**{short: range(100), long: range(60), often: range(100)})
    seen = from_records(frame)["records, more effort"]
    assert seen.outcome == "suspicious"
    assert "40 of 500" in seen.sentence
    lucky = records(**{short: range(100), long: range(6, 104)})
    assert from_records(lucky)["records, more effort"].outcome == "pass"
    assert "records, more effort" not in from_records(records(**{short: 100}))


def test_an_attack_that_was_still_breaking_images_is_suspicious() -> None:
    attack = WHITE.format(20, 1)
    frame = records(**{attack: 200})
    frame.loc[:99, "fell_at"] = 20
    assert from_records(frame)["records, convergence"].outcome == "suspicious"
    frame.loc[5:99, "fell_at"] = 12
    assert from_records(frame)["records, convergence"].outcome == "pass"


def test_records_that_contradict_themselves_fail() -> None:
    frame = records(**{WHITE.format(10, 1): 100})
    assert from_records(frame)["records"].outcome == "pass"
    frame.loc[499, "clean_prediction"] = 2
    assert from_records(frame)["records"].outcome == "fail"
    outside = records(**{WHITE.format(10, 1): 100})
    outside.loc[400:, "violation"] = "outside the ball"
    assert from_records(outside)["records"].outcome == "suspicious"


def test_what_stands_where_all_can_be_grey_is_suspicious() -> None:
    attack = WHITE.format(10, 1)
    small, large = records(**{attack: 100}), records(**{attack: 300}).assign(eps=0.5)
    assert from_records(pd.concat([small, large]))["records, growing radius"].outcome == "suspicious"
    larger = records(**{attack: 490}).assign(eps=0.5)
    assert from_records(pd.concat([small, larger]))["records, growing radius"].outcome == "pass"
    shrinking = records(**{attack: 60}).assign(eps=0.2)
    assert from_records(pd.concat([small, shrinking]))["records, growing radius"].outcome == "suspicious"


@pytest.mark.parametrize(
    ("measured", "outcome"),
    [
        ((690, 1000), "pass"),
        ((640, 1000), "suspicious"),
        ((500, 1000), "fail"),
        ((10, 20), "pass"),
        ((760, 1000), "suspicious"),
    ],
)
def test_clean_accuracy_is_held_against_the_card(measured: tuple[int, int], outcome: str) -> None:
    trust = checked(
        plain(), HONEST["standard mlp"], budget=QUICK, clean_accuracy=measured, expected_clean=(0.687, 50_000)
    )
    assert found(trust)["clean accuracy"].outcome == outcome


@pytest.mark.parametrize(("right", "n", "outcome"), [(3, 30, "suspicious"), (8, 30, "pass"), (0, 9, "pass")])
def test_without_a_card_clean_accuracy_is_held_against_chance(right: int, n: int, outcome: str) -> None:
    """Of ten classes; by hand, Wilson's lower end for 3 of 30 is 3.5%, for 8 of 30 14.2%, and 9 images are too few."""
    seen = found(checked(plain(), HONEST["standard mlp"], budget=QUICK, clean_accuracy=(right, n)))
    assert seen["clean accuracy"].outcome == outcome
    assert "where chance is 10.0%" in seen["clean accuracy"].sentence


def test_clean_accuracy_comes_from_the_records_where_there_are_some() -> None:
    frame = records(450, **{SQUARE: 5})
    seen = found(
        checked(
            plain(),
            HONEST["standard mlp"],
            budget=QUICK,
            records=frame,
            attacks=list(described(frame).values()),
            expected_clean=(0.99, 1000),
        )
    )
    assert "450 of 450" in seen["clean accuracy"].sentence


def test_a_curve_that_stays_flat_while_the_radius_doubles_is_suspicious() -> None:
    """Carried rows, which took no pass, make every curve of a run fall."""
    attack = WHITE.format(10, 1)
    small = records(**{attack: 200})

    def larger(fallen: int) -> pd.DataFrame:
        frame = records(**{attack: fallen}).assign(eps=0.2)
        frame.loc[frame.index[:200], ["forward", "backward"]] = 0
        return pd.concat([small, frame])

    seen = from_records(larger(205))["records, growing radius"]
    assert seen.outcome == "suspicious"
    assert "flat" in seen.sentence
    assert from_records(larger(300))["records, growing radius"].outcome == "pass"
    assert from_records(larger(205).replace({"eps": {0.2: 0.12}}))["records, growing radius"].outcome == "pass"


def test_names_do_not_tell_what_an_attack_uses() -> None:
    follows, asks = "mine.SquareRootAscent()", "mine.Search()"
    frame = records(**{WHITE.format(50, 1): range(100), follows: range(80, 120), asks: range(90)})
    frame["backward"] = (frame["attack"] != asks).astype(int)
    seen = from_records(frame)["records, black-box attack"]
    assert seen.outcome == "pass"
    assert asks in seen.sentence
    assert follows not in seen.sentence
    alone = records(**{WHITE.format(50, 1): range(100), follows: range(80, 120)}).assign(backward=1)
    assert "records, black-box attack" not in from_records(alone)


def test_the_page_holds_the_evidence_and_nothing_from_elsewhere(tmp_path: Path) -> None:
    findings = [
        Finding(check="direction", outcome="suspicious", sentence="3 of 64 <b>", next_attack="square"),
        Finding(check="modes", outcome="pass", sentence="All follow."),
    ]
    trust = Trust(verdict="suspicious", depth="full", findings=findings, forward=1234, backward=56)
    stored, index = write_trust(
        tmp_path,
        trust,
        ModelInfo(ref="net", digest="sha256:0", label="net"),
        DataInfo(name="digits", split="test", n=64, digest="sha256:1"),
        Threat(norm="Linf", eps=8 / 255),
        0,
        {"direction": "Does it lead?"},
    )
    assert Trust.model_validate_json(stored.read_text()) == trust
    page = index.read_text()
    for part in ("suspicious", "3 of 64 &lt;b&gt;", "--attack square", "Does it lead?", "Linf 8/255", "1,234"):
        assert part in page
    assert "http" not in page


def test_the_command_exits_1_for_what_fails_and_writes_its_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "spoilt_network.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.flat, self.out = nn.Flatten(), nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return self.out(self.flat(x.detach()))\n"
    )
    monkeypatch.chdir(tmp_path)
    words = ["trust", "spoilt_network:Net", "--dataset", "digits", "--n", "8"]
    done = CliRunner().invoke(app, [*words, "--eps", "0.1"])
    sys.modules.pop("spoilt_network", None)
    assert done.exit_code == 1, done.output
    assert "Net at Linf 0.1: fail" in done.output
    (page,) = (tmp_path / "reports" / "trust").glob("Net-*")
    trust = Trust.model_validate_json((page / "trust.json").read_text())
    assert trust.depth == "full"
    assert found(trust)["gradients"].outcome == "fail"
    assert CliRunner().invoke(app, words).exit_code == 2
    assert CliRunner().invoke(app, [*words[:-1], "1001", "--eps", "0.1"]).exit_code == 2


def _tail(flat: int) -> list[nn.Module]:
    return [
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, 100),
        nn.ReLU(),
        nn.Linear(100, 10),
    ]


def anchor(name: str, channels: int, flat: int) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(channels, 16, 4, stride=2, padding=1), nn.ReLU(), *_tail(flat))
    model.load_state_dict(torch.load(ANCHORS / name, map_location="cpu", weights_only=True))
    return model.eval()


@needs_anchors
@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_anchor_whose_gradients_hide_examples_is_suspicious() -> None:
    pixels, labels = (
        np.frombuffer(gzip.decompress((ANCHORS / f"t10k-{part}-ubyte.gz").read_bytes())[header:], np.uint8)
        for part, header in (("images-idx3", 16), ("labels-idx1", 8))
    )
    shown = image_set(
        "mnist", "test", pixels.reshape(-1, 1, 28, 28)[:256].copy(), labels[:256].copy(), [f"{i}" for i in range(256)]
    )
    trust = examine(anchor("mnist_fgsm_cnn.pth", 1, 1568), shown, ThreatModel("Linf", 0.3), depth="full")
    assert doubts(trust) == {"black box"}
    assert trust.verdict == "suspicious"


@needs_anchors
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("depth", ["quick", "full"])
def test_the_anchor_that_was_attacked_well_is_not_flagged(depth: Any) -> None:
    x = np.load(ANCHORS / "X_sdp.npy").transpose(0, 3, 1, 2).copy()
    y = np.load(ANCHORS / "y_sdp.npy").astype(np.int64)
    mean, std = torch.tensor([0.4914, 0.4824, 0.4467]), torch.tensor([0.2471, 0.2435, 0.2616])
    model = Around(
        anchor("cifar_cnn_a_adv4.pth", 3, 2048), before=lambda x: (x - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    )
    shown = image_set("cifar", "test", x, y, [f"{i}" for i in range(len(x))])
    trust = examine(model, shown, ThreatModel("Linf", 4 / 255), depth=depth)
    assert not doubts(trust)
