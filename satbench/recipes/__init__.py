"""Named training runs as functions that return a config."""

from collections.abc import Callable

from satbench.recipes.digits import digits_quick, digits_sat, digits_standard
from satbench.training.config import TrainConfig

RECIPES: dict[str, Callable[[], TrainConfig]] = {
    "digits-sat": digits_sat,
    "digits-standard": digits_standard,
    "digits-quick": digits_quick,
}
