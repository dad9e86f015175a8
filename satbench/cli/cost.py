"""`satbench cost`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    study: Annotated[Path | None, typer.Argument(metavar="[FILE.yaml]", help="A study: what each job costs.")] = None,
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
    """Predict the passes and hours of an evaluation, a training or a study, from a few seconds a job on this device.

    The options are those of `satbench eval`. With --recipe and no --attack it is the training; with both, the
    evaluation of the network that the recipe will train.
    """
    from satbench.core.errors import BadInput
    from satbench.evaluation import EvaluationSpec, make_request
    from satbench.recipes import recipe as recipe_of
    from satbench.study.cost import predict_evaluation, predict_training

    if sum(one is not None for one in (study, model, recipe)) != 1:
        raise BadInput("give --model, for an evaluation, or --recipe, for a training, or the file of a study")
    if study is not None:
        from satbench.cli.study import list_jobs
        from satbench.specs.study import read_study
        from satbench.study import jobs_of

        list_jobs(jobs_of(read_study(study), str(study)), data_dir, device)
        return
    config = None if recipe is None else recipe_of(recipe)
    if config is not None and not attack:
        typer.echo(f"train {config.recipe}, {config.epochs} epochs: {predict_training(config, data_dir, device)}")
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
    typer.echo(f"{what}: {predict_evaluation(spec, data_dir, device, config)}")
