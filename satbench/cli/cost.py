"""`satbench cost`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from satbench.study.cost import Cost


def command(
    model: Annotated[str | None, typer.Option(help="The network of an evaluation, as in `satbench eval`.")] = None,
    attack: Annotated[list[str] | None, typer.Option(help="May be repeated.")] = None,
    recipe: Annotated[str | None, typer.Option(help="A training instead, or the network before its training.")] = None,
    norm: Annotated[str | None, typer.Option(help="Linf, L2, L1; comma list.")] = None,
    eps: Annotated[str | None, typer.Option(help="Radius; comma list.")] = None,
    threat: Annotated[
        list[str] | None, typer.Option(metavar="NORM:EPS", help="Instead of --norm and --eps; may be repeated.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Comma list.")] = None,
    restarts: Annotated[str | None, typer.Option(help="Comma list.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Default: the model's.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where relative data paths lie; or SATBENCH_DATA.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Only the first N images of the split.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images at a time.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of the evaluation.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    checkpoint: Annotated[Path | None, typer.Option(help="Other weights for the model.")] = None,
    source: Annotated[str | None, typer.Option("--from", metavar="MODEL", help="Search on this network.")] = None,
    search: Annotated[str, typer.Option(help="folded, plain, bf16 or surrogate.")] = "folded",
    draws: Annotated[int | None, typer.Option(help="Passes of which the majority decides.")] = None,
    trust: Annotated[bool, typer.Option(help="With the trust battery.")] = True,
    threads: Annotated[int | None, typer.Option(help="Threads on the CPU.")] = None,
) -> None:
    """Predict the passes and hours of an evaluation or a training, from a few seconds on this device; writes nothing.

    The options are those of `satbench eval`. With --recipe and no --attack it is the training; with both, the
    evaluation of the network that the recipe will train.
    """
    from satbench.core.errors import BadInput
    from satbench.evaluation import EvaluationSpec, make_request
    from satbench.recipes import recipe as recipe_of
    from satbench.study.cost import predict_evaluation, predict_training

    if (model is None) == (recipe is None):
        raise BadInput("give either --model, for an evaluation, or --recipe, for a training")
    config = None if recipe is None else recipe_of(recipe)
    if config is not None and not attack:
        say(f"train {config.recipe}, {config.epochs} epochs", predict_training(config, data_dir, device))
        return
    fields = {
        "checkpoint": checkpoint,
        "source": source,
        "dataset": dataset,
        "split": split,
        "image_size": image_size,
        "n": n,
        "seed": seed,
        "search": search,
        "batch_size": batch_size,
        "draws": draws,
        "threads": threads,
        "trust": trust,
    }
    asked = make_request(model or str(recipe), attack, norm, eps, steps, restarts, threat or (), fields)
    spec: EvaluationSpec = asked.spec if config is None else asked.spec.model_copy(update={"model": None})
    what = f"eval {model or recipe}, {', '.join(str(one) for one in asked.attacks)}"
    say(what, predict_evaluation(spec, data_dir, device, config))


def say(what: str, cost: "Cost") -> None:
    """Print a job and what it costs."""
    typer.echo(f"{what}: {cost.passes:,} passes, {duration(cost.seconds)} ({duration(cost.low)} to ", nl=False)
    typer.echo(f"{duration(cost.high)}), {cost.core_hours:.2g} core-hours; {cost.assumption}")


def duration(seconds: float) -> str:
    """Seconds, minutes or hours, to two digits or the unit."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
