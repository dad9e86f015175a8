"""Named training runs as functions that return a config, and config files in their place."""

from collections.abc import Callable
from pathlib import Path

from satbench.core import plugins
from satbench.core.errors import BadInput
from satbench.core.lookup import find, imported_table
from satbench.core.tables import RECIPES as NAMES
from satbench.recipes.file import SUFFIXES, read_recipe
from satbench.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = imported_table("satbench.recipes", NAMES)


def recipe(name: str | Path) -> TrainConfig:
    """The config of a named recipe, of one of the user's own, or the one in a .json, .yaml or .yml file.

    One of the user's own is `package.module:callable` with parameters. Raises `BadInput` for any other name.
    """
    reference, tail = plugins.spelled(str(name))
    if plugins.is_reference(reference) and not Path(name).exists():
        with plugins.own("recipe", reference) as build:
            found = build(**plugins.arguments(build, tail, f"recipe {name!r}"))
        if not isinstance(found, TrainConfig):
            wanted = plugins.SOCKETS["recipe"].wanted
            raise BadInput(f"recipe {name} returned a {type(found).__name__}; {wanted}")
        return named(found)
    if name not in RECIPES and Path(name).suffix in SUFFIXES:
        return named(read_recipe(Path(name)))
    if Path(name).is_dir():
        raise BadInput(f"{name} is a folder; give its {Path(name, 'config.json')} to train by the same settings")
    return find(RECIPES, str(name), "recipe")()


def named(config: TrainConfig) -> TrainConfig:
    """The config under the name of its recipe, with all settings in brackets in which it differs from that.

    Equal trainings so have equal names, however they were written. A name that is no recipe's stays.
    """
    start = RECIPES.get(config.recipe.partition(" [")[0])
    return config if start is None else config.named_after(start())
