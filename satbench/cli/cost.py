"""`satbench cost`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.study.cost import Cost


def command(
    ctx: typer.Context,
    study: Annotated[Path | None, typer.Argument(metavar="[FILE.yaml]", help="A study: what each job costs.")] = None,
    model: Annotated[str | None, typer.Option(help=f"The network of an evaluation. {options.NETWORK}")] = None,
    attack: Annotated[list[str] | None, typer.Option(help=options.ATTACK)] = None,
    recipe: Annotated[str | None, typer.Option(help="A training instead, or the network before its training.")] = None,
    norm: options.Norm = None,
    eps: options.Eps = None,
    threat: options.Threats = None,
    steps: options.Steps = None,
    restarts: options.Restarts = None,
    dataset: options.Dataset = None,
    split: options.Split = None,
    image_size: options.ImageSize = None,
    loader: options.Loader = None,
    data_dir: options.DataDir = None,
    n: options.Count = None,
    batch_size: options.BatchSize = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    checkpoint: options.Checkpoint = None,
    source: options.Source = None,
    search: options.Search = "folded",
    draws: options.Draws = None,
    trust: options.Trust = True,
    threads: options.Threads = None,
    as_json: options.Json = False,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Predict the passes and hours of an evaluation, a training or a study, from a few seconds a job on this device.

    The options are those of `satbench eval`. With --recipe and no --attack it is the training; with both, the
    evaluation of the network that the recipe will train.
    """
    from satbench.cli.asked import in_words, stated
    from satbench.cli.progress import announce
    from satbench.core.devices import check_device
    from satbench.core.errors import BadInput
    from satbench.specs.names import check_recipe
    from satbench.specs.study import read_study

    if sum(one is not None for one in (study, model, recipe)) != 1:
        raise BadInput("give --model, for an evaluation, or --recipe, for a training, or the file of a study")
    check_device(device)
    if study is not None:
        plan = read_study(study)
        announce(f"cost of {study}: the jobs, then what each costs, some seconds a job")

        from satbench.cli.study import list_jobs
        from satbench.study import jobs_of

        list_jobs(jobs_of(plan, str(study)), data_dir, device, as_json)
        return
    if recipe is not None:
        check_recipe(recipe)
    is_training = recipe is not None and not attack
    what = f"train {recipe}" if is_training else f"eval {model or recipe}, {in_words(stated(ctx.params))}"
    announce(f"cost of {what}: a look at this device, some seconds")

    from satbench.evaluation import EvaluationSpec, make_request
    from satbench.recipes import recipe as recipe_of
    from satbench.study.cost import predict_evaluation, predict_training

    config = None if recipe is None else recipe_of(recipe)
    if config is not None and not attack:
        _echo(f"train {config.recipe}, {config.epochs} epochs", predict_training(config, data_dir, device), as_json)
        return
    fields = options.spec_fields(ctx.params)
    asked = make_request(model or str(recipe), attack, norm, eps, steps, restarts, threat or (), fields)
    spec: EvaluationSpec = asked.spec if config is None else asked.spec.model_copy(update={"model": None})
    named = f"eval {model or recipe}, {', '.join(str(one) for one in asked.attacks)}"
    _echo(named, predict_evaluation(spec, data_dir, device, config), as_json)


def _echo(what: str, cost: "Cost", as_json: bool) -> None:
    from dataclasses import asdict

    from satbench.core.files import to_json

    echo(to_json({"job": what, **asdict(cost)}) if as_json else f"{what}: {cost}\n", nl=False)
