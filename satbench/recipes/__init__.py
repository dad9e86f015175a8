"""Named training runs."""

from satbench.recipes.table import RECIPES, named, recipe

__all__ = ["RECIPES", "named", "recipe"]
