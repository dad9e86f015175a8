"""Published figures: read strictly, and beside measured ones with a verdict that says what was tested."""

from pathlib import Path

import pytest

from satbench.core.eps import parse_eps
from satbench.core.errors import BadInput
from satbench.data.loaders import LOADERS
from satbench.reporting.claims_file import ClaimsFile, headline, published, read_claims
from satbench.reporting.published import compare, to_markdown
from satbench.reporting.summary import Row
from satbench.results.schema import DataInfo
from satbench.zoo.card import ReleasedCard
from satbench.zoo.registry import read_cards

from .made import known

CLAIMS = ClaimsFile.model_validate(
    {
        "images": {"dataset": "imagenet", "split": "val", "n": 50000},
        "threat": {"norm": "Linf", "eps": "4/255"},
        "sources": {
            "readme": {"where": "the README", "loader": "card", "step_size": "1/255"},
            "paper": {"where": "the paper", "loader": "tf1-bicubic"},
        },
        "figures": {"net": {"readme": {"clean": 70.0, "pgd-10": 40.0, "pgd-50": 38.0}, "paper": {"pgd-200": 37.5}}},
    }
)
IMAGES = DataInfo(name="imagenet", split="val", n=1000, digest="sha256:0", loader="opencv-cubic", image_size=224)


def pgd(steps: int = 10, step_size: float | str | None = None, **changes: object) -> str:
    params = {"steps": steps, "step_size": step_size, "loss": "ce", "init": "uniform", "restarts": 1, "keep": "last"}
    return f"PGD({', '.join(f'{key}={value!r}' for key, value in (params | changes).items())})"


def row(robust: int = 400, clean: int = 700, n: int = 1000, attack: str = pgd(), eps: float = 4 / 255) -> Row:
    return Row(
        label="net",
        activation="silu",
        method="sat",
        recipe="r",
        seed=None,
        trained_for=None,
        model_digest="sha256:1",
        dataset="imagenet",
        split="val",
        norm="Linf",
        eps=eps,
        attack=attack,
        attacks=(known(attack),),
        n=n,
        clean_correct=clean,
        robust=robust,
        violations=0,
        eval_seeds=(0,),
        data_digests=("sha256:0",),
        versions={},
        revision=None,
    )


def verdicts(*rows: Row, data: DataInfo = IMAGES, loader: str = "opencv-cubic") -> dict[str, str]:
    return {one.claim.figure: one.verdict for one in compare(CLAIMS, "net", loader, 224, data, rows)}


def test_a_published_figure_inside_the_interval_agrees() -> None:
    """400 of 1,000 has the Wilson interval [37.0, 43.1], 700 of 1,000 [67.1, 72.8] (any table)."""
    found = verdicts(row())
    assert found["clean"] == found["PGD-10"] == "agrees"


@pytest.mark.parametrize(
    ("robust", "verdict"),
    [
        (366, "DISAGREES: published lies above the interval"),  # [33.7, 39.6], short of 40.0 by more than its rounding
        (371, "agrees"),  # [34.1, 40.1]
        (430, "agrees"),  # [39.96, 46.1]
        (432, "DISAGREES: published lies below the interval"),  # [40.2, 46.3]
    ],
)
def test_one_outside_disagrees_and_the_verdict_says_where_it_lies(robust: int, verdict: str) -> None:
    assert verdicts(row(robust))["PGD-10"] == verdict


def test_what_was_not_measured_says_how_to() -> None:
    found = verdicts(row())
    assert found["PGD-50"] == "not measured: --attack sat-pgd:steps=50"
    assert found["PGD-200"] == "not measured: --attack sat-pgd:steps=200 --loader tf1-bicubic"
    assert verdicts(row(eps=8 / 255))["PGD-10"].startswith("not measured")


@pytest.mark.parametrize(
    ("measured", "data", "loader", "difference"),
    [
        (row(), IMAGES.model_copy(update={"name": "imagenet-sample", "split": "all"}), "opencv-cubic", "other images"),
        (row(), IMAGES.model_copy(update={"loader": "torchvision"}), "opencv-cubic", "other loader (torchvision"),
        (row(), IMAGES, "tf1-bicubic", "other loader (opencv-cubic, published with tf1-bicubic)"),
        (row(), IMAGES.model_copy(update={"image_size": 256}), "opencv-cubic", "other size (256 pixels"),
        (row(attack=pgd(loss="margin")), IMAGES, "opencv-cubic", "other attack (loss margin, published with ce)"),
        (
            row(attack=pgd(restarts=5, keep="best")),
            IMAGES,
            "opencv-cubic",
            "other attack (restarts 5, published with 1)",
        ),
        (row(attack=pgd(keep="best")), IMAGES, "opencv-cubic", "other attack (keep best, published with last)"),
        (row(attack=pgd(init="zero")), IMAGES, "opencv-cubic", "other attack (init zero, published with uniform-u"),
        (row(attack=pgd(momentum=0.75)), IMAGES, "opencv-cubic", "other attack (momentum 0.75, published without)"),
        (row(attack=pgd(step_size=2 / 255)), IMAGES, "opencv-cubic", "other step (2/255, published with 1/255)"),
    ],
)
def test_a_run_that_differs_is_no_test(measured: Row, data: DataInfo, loader: str, difference: str) -> None:
    verdict = verdicts(measured, data=data, loader=loader)["PGD-10"]
    assert verdict.startswith(f"no test: {difference}")
    assert "agree" not in verdict.lower()


@pytest.mark.parametrize(
    ("robust", "n", "verdict"),
    [
        (1, 2, "too few images to tell: published lies inside the interval, which is 81 points wide"),  # [9.5, 90.5]
        (160, 400, "agrees"),  # [35.3, 44.9]
        # [34.6, 45.7]
        (120, 300, "too few images to tell: published lies inside the interval, which is 11 points wide"),
        (0, 20, "DISAGREES: published lies above the interval"),  # [0, 16.2]
    ],
)
def test_few_images_can_only_disagree(robust: int, n: int, verdict: str) -> None:
    assert verdicts(row(robust, n, n))["PGD-10"] == verdict


def test_the_default_step_of_50_steps_is_not_the_published_one() -> None:
    half = row(attack=pgd(50))
    whole = row(attack=pgd(50, parse_eps("1/255")))
    assert f"other step ({2.5 * 4 / 255 / 50!r}, published with 1/255)" in verdicts(half)["PGD-50"]
    assert verdicts(half, whole)["PGD-50"] == verdicts(whole, half)["PGD-50"] == "agrees"


def sat(steps: int) -> str:
    return pgd(steps, step_size="sat", init="uniform-unclipped")


def test_the_released_attack_tests_a_claim_at_any_number_of_steps_that_was_published() -> None:
    """Its step is max(1/255, eps / steps): 1/255 at 4/255 from four steps on, 2/255 for two."""
    assert verdicts(row(attack=sat(10)))["PGD-10"] == "agrees"
    assert verdicts(row(380, attack=sat(50)))["PGD-50"] == "agrees"
    two = CLAIMS.model_copy(update={"figures": {"net": {"readme": {"pgd-2": 45.0}}}})
    (compared,) = compare(two, "net", "opencv-cubic", 224, IMAGES, [row(450, attack=sat(2))])
    assert compared.verdict == "no test: other step (2/255, published with 1/255)"


def test_the_released_attack_is_preferred_to_its_twin() -> None:
    twin, own = row(300, attack=pgd()), row(400, attack=sat(10))
    assert verdicts(twin)["PGD-10"].startswith("DISAGREES")
    assert verdicts(twin, own)["PGD-10"] == verdicts(own, twin)["PGD-10"] == "agrees"


@pytest.mark.parametrize(
    "wrapped",
    ["Bf16(attack={})", "Surrogate(attack={})", "Transfer(attack={}, source='other@0123456789ab')"],
)
def test_an_attack_that_searched_elsewhere_tests_nothing(wrapped: str) -> None:
    assert verdicts(row(attack=wrapped.format(sat(10))))["PGD-10"].startswith("not measured")


def test_a_source_that_states_no_step_cannot_be_tested() -> None:
    data = IMAGES.model_copy(update={"loader": "tf1-bicubic"})
    for step in (None, parse_eps("1/255")):
        verdict = verdicts(row(375, attack=pgd(200, step)), data=data)["PGD-200"]
        assert verdict == "no test: the published step is not stated"


def test_every_source_names_a_loader_that_there_is() -> None:
    assert {source.loader for source in read_claims().sources.values()} <= {"card", *LOADERS}


def test_a_published_and_a_measured_figure_never_share_a_column() -> None:
    table = to_markdown(CLAIMS, compare(CLAIMS, "net", "opencv-cubic", 224, IMAGES, [row()]))
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert lines[0] == ["figure", "published %", "source", "measured % [95%]", "n", "verdict"]
    assert lines[2] == ["clean", "70.0", "readme", "70.0 [67.0, 72.8]", "1000", "agrees"]
    assert lines[3][:5] == ["PGD-10", "40.0", "readme", "40.0 [37.0, 43.1]", "1000"]
    assert lines[4][3:5] == ["-", "-"]
    assert "readme: the README" in table


def test_the_headline_is_clean_and_the_attack_of_most_steps() -> None:
    clean, robust = headline(published(CLAIMS, "net"))
    assert clean is not None
    assert robust is not None
    assert (clean.percent, robust.figure, robust.percent) == (70.0, "PGD-200", 37.5)
    assert headline([]) == (None, None)


def test_every_claim_is_of_a_released_card_and_every_card_but_one_has_one() -> None:
    claims = read_claims()
    cards = {name for name, card in read_cards().items() if isinstance(card, ReleasedCard)}
    assert set(claims.figures) == cards - {"resnet50-mish"}  # downloadable, in no table


def test_the_figures_are_those_of_the_readme() -> None:
    """Gains over ReLU as the README's tables give them, so that a slip of the pen shows."""
    claims = read_claims()
    readme = {name: sources["readme"] for name, sources in claims.figures.items() if "readme" in sources}
    assert len(readme) == 22
    assert all(
        figures["clean"] > figures["pgd-10"] > figures["pgd-20"] > figures["pgd-50"]
        for name, figures in readme.items()
        if name.startswith("resn")
    )
    assert readme["resnet50-silu"]["pgd-50"] - readme["resnet50-relu"]["pgd-50"] == pytest.approx(8.8)
    assert all(set(figures) == {"clean"} for name, figures in readme.items() if name.startswith("effnet"))
    assert claims.figures["effnet-l1-enhanced"]["abstract"] == {"clean": 82.2, "pgd-200": 58.6}


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("pgd-10: 35.3", "pgd-ten: 35.3", "figures.resnet50-relu.readme.pgd-ten"),
        ("pgd-10: 35.3", "pgd-10: 135.3", "figures.resnet50-relu.readme.pgd-10"),
        ("pgd-10: 35.3", "pgd-10: high", "figures.resnet50-relu.readme.pgd-10"),
        ("    readme: {clean: 65.2}", "    log: {clean: 65.2}", "figures.effnet-b0.log"),
        ("    loader: card", "    loder: card", "sources.readme.loder"),
        ("eps: 4/255", "radius: 4/255", "threat.radius"),
        ("eps: 4/255", "eps: 4", "threat.eps"),  # pixel values of 0..255
        ("eps: 4/255", "eps: four", "threat.eps"),
        ("norm: Linf", "norm: linf", "threat.norm"),
    ],
)
def test_a_slip_is_named_by_file_and_field(old: str, new: str, field: str, tmp_path: Path) -> None:
    text = (Path(__file__).parents[2] / "leaderboards" / "claims.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "claims.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(BadInput, match=rf"claims\.yaml, field '{field}"):
        read_claims(tmp_path / "claims.yaml")
