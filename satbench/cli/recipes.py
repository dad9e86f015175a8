"""`satbench recipes`."""

import inspect
from typing import Annotated

import typer

BATCHES = 1000  # of an epoch, of which the learning rate is drawn


def command(
    name: Annotated[
        str | None, typer.Argument(help="One recipe, or a config.json or YAML file, to be shown whole.")
    ] = None,
) -> None:
    """List the named trainings; with a NAME show its sources, what to expect of it and every setting."""
    from satbench.core.lookup import pick
    from satbench.methods import METHODS
    from satbench.recipes import RECIPES, recipe
    from satbench.training.schedule import drawing
    from satbench.training.stages import rates_of, stages_of

    if name is None:
        width = max(map(len, RECIPES))
        for known, make in RECIPES.items():
            typer.echo(f"{known:<{width}}  {_words(make).splitlines()[0]}")
        typer.echo("satbench recipes NAME shows one whole; satbench train NAME runs it")
        return
    config = recipe(name)
    if named := RECIPES.get(name):
        typer.echo(f"{_words(named)}\n\n{_words(inspect.getmodule(named))}\n")
    typer.echo(f"method: {pick(METHODS, config.method.name, 'method', **config.method.params)}")
    if not any(one.updates for one in config.stages):  # whose length in epochs depends on the images
        blocks, numbers = drawing(rates_of(stages_of(config, BATCHES)), config.epochs)
        typer.echo(f"learning rate over {config.epochs} epochs:\n{blocks}\n{numbers}\n")
    typer.echo(config.model_dump_json(indent=2))


def _words(make: object) -> str:
    return inspect.getdoc(make) or ""
