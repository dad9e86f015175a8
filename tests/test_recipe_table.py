"""`docs/recipes.md`, which compares the recipes with their authors' code, against the recipes themselves."""

import inspect
import re
from pathlib import Path
from typing import Any

import pytest

from satbench.core.lookup import pick
from satbench.methods import METHODS
from satbench.models import ARCHITECTURES, ModelSpec, empty_model
from satbench.recipes import RECIPES
from satbench.training.averaging import AVERAGES
from satbench.training.combinations import refuse_undefined
from satbench.training.config import TrainConfig
from satbench.training.schedule import SCHEDULES
from satbench.training.settings import Named

TEXT = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text(encoding="utf-8")
TABLES = {"model": ARCHITECTURES, "schedule": SCHEDULES, "averaging": AVERAGES}
AT_LEAST = {
    *("model", "batch_size", "optimizer.lr", "optimizer.weight_decay", "optimizer.decay"),
    *("augment", "threat.eps", "attack_bn_mode"),
}
UNLISTED = {  # the table says why
    *("cifar10-standard", "cifar10-sat", "cifar10-sat-single-step", "cifar10-ema", "imagenet-relu-resnet50"),
    "cifar10-jpeg-sat-small",
    "cifar10-sglr-trades",
    "cifar10-ssl-at",
}


def table(heading: str) -> list[list[str]]:
    """The cells of the one table whose first column is called `heading`."""
    lines = iter(TEXT.splitlines())
    next(line for line in lines if line.startswith(f"| {heading} |"))
    next(lines)
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


ROWS = table("recipe")
SOURCES = {name: parts for name, *parts in table("name")}
SETTINGS = [row for row in ROWS if row[1].startswith("`")]


def value(config: TrainConfig, key: str) -> Any:
    """What a setting comes to, also where a default of the method or of another table decides."""
    head, _, tail = key.partition(".")
    part = getattr(config, head)
    if not isinstance(part, Named):
        return getattr(part, tail) if tail else part
    if not tail or tail in part.params:
        return part.params[tail] if tail else part.name
    if head == "method":
        method = pick(METHODS, part.name, "method", **part.params)
        return getattr(method, tail) if hasattr(method, tail) else getattr(method.inner, tail)
    return inspect.signature(TABLES[head][part.name]).parameters[tail].default


@pytest.mark.parametrize("row", SETTINGS, ids=lambda row: f"{row[0]}-{row[1].strip('`')}")
def test_the_table_says_what_the_recipe_does(row: list[str]) -> None:
    name, setting, authors, ours, relation, _ = row
    config, key = RECIPES[name](), setting.strip("`")
    assert value(config, key) == value(config.with_values({key: ours}), key)
    assert relation == ("same" if authors == ours else "differs")


def test_every_row_has_a_source_and_what_is_no_setting_is_a_departure() -> None:
    named = set()
    for name, setting, authors, ours, relation, source in ROWS:
        assert name in RECIPES
        assert setting.startswith("`") or (relation == "differs" and authors != ours), (name, setting)
        for one in source.split("; "):
            named.add(one.partition(" ")[0].rstrip(","))
    assert named == set(SOURCES)
    for repository, file, commit in SOURCES.values():
        assert repository.count("/") == 1
        assert "." in file
        assert re.fullmatch("[0-9a-f]{40}", commit)


def test_every_recipe_on_photographs_is_in_the_table() -> None:
    listed = {row[0] for row in ROWS}
    assert listed == {name for name in RECIPES if not name.startswith("digits")} - UNLISTED
    for name in listed:
        found = {row[1].strip("`") for row in ROWS if row[0] == name}
        missing = AT_LEAST - found
        assert not missing or (name, missing) in (
            ("cifar10-free", {"attack_bn_mode"}),  # its attack takes no pass of its own
            ("imagenet-sat-resnet50", {"batch_size", "threat.eps"}),  # flags without values in the code
        )


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_can_be_trained(name: str) -> None:
    config = RECIPES[name]()
    refuse_undefined(config)
    side = config.image_size or 32
    empty_model(
        ModelSpec(config.model.name, config.activation, 10, 3, side, (0.5,) * 3, (0.5,) * 3, config.model.params)
    )


@pytest.mark.parametrize("name", RECIPES)
def test_a_figure_is_published_only_beside_a_recipe_that_follows(name: str) -> None:
    words = inspect.getdoc(RECIPES[name]) or ""
    rows = [row for row in ROWS if row[0] == name]
    if "published" in words.partition("Expected:")[2]:
        assert rows
        assert all(row[4] == "same" for row in rows)
    assert ("Departures: " in words) is any(row[4] == "differs" for row in rows)
