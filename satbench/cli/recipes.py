"""`satbench recipes`."""

import inspect
from typing import Annotated

import typer

from satbench.cli.output import echo

BATCHES = 1000  # of an epoch, of which the learning rate is drawn


def command(
    name: Annotated[
        str | None, typer.Argument(help="One recipe, or a config.json or YAML file, to be shown whole.")
    ] = None,
) -> None:
    """List the named trainings; with a NAME show its sources, what to expect of it and every setting."""
    from satbench.cli.progress import announce
    from satbench.specs.names import check_recipe

    if name is not None:
        check_recipe(name)
    announce(f"recipes: {name or 'all'}, some seconds")

    from satbench.recipes import RECIPES, recipe
    from satbench.training.schedule import drawing
    from satbench.training.stages import known_from, method_of, passes_of, rates_of, stage_configs, stages_of

    if name is None:
        rows = [("recipe", "method", "passes of an image", "follows", "what it is")]
        for known, make in RECIPES.items():
            config = make()
            passes = f"{passes_of(config, config.epochs):,.0f}"
            rows.append((known, config.method.name, passes, known_from(config), _words(make).splitlines()[0]))
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
        echo("satbench recipes NAME shows one whole, satbench train NAME runs it; docs/methods.md: the methods")
        return
    config = recipe(name)
    if named := RECIPES.get(name):
        echo(f"{_words(named)}\n\n{_words(inspect.getmodule(named))}\n")
    for stage in stage_configs(config):
        method = method_of(stage)
        source = f" ({method.paper}; follows: {method.known_from})" if method.paper else ""
        echo(f"method: {method}{source}")
    if not any(one.updates for one in config.stages):  # whose length in epochs depends on the images
        blocks, numbers = drawing(rates_of(stages_of(config, BATCHES)), config.epochs)
        echo(f"learning rate over {config.epochs} epochs:\n{blocks}\n{numbers}\n")
    echo(config.model_dump_json(indent=2))


def _words(make: object) -> str:
    return inspect.getdoc(make) or ""
