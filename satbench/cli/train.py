"""`satbench train`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo


def command(
    recipe: Annotated[
        str, typer.Argument(help="Named run, or a config.json or YAML file; options replace parts of it.")
    ] = "digits-sat",
    model: Annotated[str | None, typer.Option(help="Architecture, such as cnn-small.")] = None,
    activation: Annotated[str | None, typer.Option(help="Activation, such as silu or relu.")] = None,
    method: Annotated[str | None, typer.Option(help="Training algorithm, such as pgd_at.")] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, image_folder:PATH or npz:PATH.")] = None,
    train_n: Annotated[
        int | None, typer.Option(metavar="N", help="Train on N of the training images; by default on all.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    seed: Annotated[int | None, typer.Option(help="Decides every random number of the run.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default reports/runs/<recipe>-<...>.")] = None,
    device: options.Device = "auto",
    data_dir: options.DataDir = None,
    keep_every: Annotated[
        int | None,
        typer.Option(metavar="K", help="Keep the weights of every K-th epoch, as OUT/epochs/0010.safetensors."),
    ] = None,
    log_steps: Annotated[
        int | None, typer.Option(metavar="K", help="Log every K-th update, into OUT/steps.jsonl.")
    ] = None,
    track: Annotated[
        list[str] | None, typer.Option(help="Also log to tensorboard, wandb or mlflow, each an extra; repeatable.")
    ] = None,
    is_dry: Annotated[
        bool, typer.Option("--dry-run", help="Say what the run would do and cost, from a few updates; write nothing.")
    ] = False,
    set_: Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any other setting.")] = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Train a network adversarially; the same command continues an interrupted run, and more --epochs a finished one.

    Settings for --set: optimizer.lr, batch_size, schedule, threat.eps, method.steps, model.width, averaging=ema,
    label_smoothing.amount, data.val=0.02 or 1000 or none, speed.precision=bf16 and every other field of the run's
    config.json; a list is written 75+90, pairs 0:1+60:2. Code of your own stands in for every name, see `satbench
    plugins`. On several GPUs: torchrun --nproc-per-node N -m satbench train ...
    """
    from satbench.cli.progress import progress_bar
    from satbench.core.errors import BadInput
    from satbench.core.progress import silent
    from satbench.methods.base import START
    from satbench.numerics.device import resolve_device
    from satbench.recipes import named
    from satbench.recipes import recipe as recipe_of
    from satbench.reporting.plots import save, training_curves
    from satbench.reporting.rounding import inward
    from satbench.training import train
    from satbench.training.checkpoint import epoch_file
    from satbench.training.distributed import joined
    from satbench.training.dry_run import described, dry_run
    from satbench.training.ending import in_words
    from satbench.training.evaluators import evaluators_of, figures_of
    from satbench.training.log import measuring_share
    from satbench.zoo import BEST

    values: dict[str, Any] = {
        "model": model,
        "activation": activation,
        "method": method,
        "dataset": dataset,
        "data.train_n": train_n,
        "epochs": epochs,
        "seed": seed,
    }
    values = {key: value for key, value in values.items() if value is not None}
    with joined(resolve_device(device)) as (processes, place):  # here, so that they report a refusal once
        for item in set_ or []:
            key, equals, value = item.partition("=")
            if not equals:
                raise BadInput(f"--set {item!r} is not KEY=VALUE; write --set optimizer.lr=0.05")
            if key.strip() in values:
                raise BadInput(f"{key.strip()} is given twice; give it once")
            values[key.strip()] = value.strip()
        config = named(recipe_of(recipe).with_values(values))
        out = out or Path("reports", "runs", _name(config))
        is_first = processes.rank == 0
        if is_dry:
            for line in described(config, dry_run(config, str(place), data_dir)) if is_first else ():
                echo(line)
            return
        with progress_bar(f"train {config.label}", "steps") as report:
            trained = train(
                config,
                out,
                str(place),
                data_dir,
                report if is_first else silent,
                keep_every=keep_every,
                log_steps=log_steps,
                trackers=track or [],
            )
    if not is_first:
        return
    if trained.was_finished:
        echo("the run was finished before: nothing was trained, logged or tracked")
    best, last = trained.history[trained.best_epoch], trained.history[trained.last_epoch]
    if best.val is not None and last.val is not None:
        echo(
            f"on {best.val.n} validation images, on which the best epoch was chosen, at {config.threat.norm} "
            f"{_eps(config.threat.eps)}:"
        )
        rates, start = figures_of(evaluators_of(config)), last.method
        found = {
            f"best epoch {best.epoch + 1} of {config.epochs}": best.val.figures,
            f"last epoch {last.epoch + 1} of {config.epochs}": last.val.figures,
            "where its stage began": {name: start[f"{START}{name}"] for name in rates if f"{START}{name}" in start},
        }
        for where, figures in found.items():
            said = [
                f"{name} % {_rate(value, last.val.n)}" if rates[name] else f"{name} {value:.4g}"
                for name, value in figures.items()
            ]
            if said:
                echo(f"{where}: {', '.join(said)}")
        first = trained.best.figures[0]
        if rates[first]:
            echo(f"best - last: {inward(best.val.figures[first] - last.val.figures[first])} points of {first}")
    else:
        echo("no validation split: nothing was measured, and the best epoch is the last one")
    if trained.times:
        echo(f"measuring took {measuring_share(trained.times):.0%} of the time")
    for row in trained.history:
        if row.alarm:
            echo(f"alarm in epoch {row.epoch + 1}, catastrophic overfitting: {row.alarm}")
    if ended := in_words(trained.history[-1].ended, config):
        echo(f"ended after epoch {len(trained.history)} of {config.epochs}: {ended}")
    if keep_every is not None:
        wanted = [epoch_file(out, epoch - 1) for epoch in range(keep_every, len(trained.history) + 1, keep_every)]
        for file in wanted:
            echo(f"{file}" if file.is_file() else f"{file} was not kept: that epoch was over before --keep-every")
    for file in save(training_curves({config.label: trained.history}), out, "curves"):
        echo(f"{file}")
    echo(f"{out / BEST}")
    echo(f"next: satbench eval --model {out} --attack pgd --eps {_eps(config.threat.eps)} --steps 50")


def _name(config: Any) -> str:
    """A folder name that differs whenever the config does."""
    import hashlib

    from satbench.core.names import path_part

    digest = hashlib.sha256(config.model_dump_json().encode()).hexdigest()[:8]
    return path_part(f"{config.recipe.partition(' ')[0]}-{config.model.name}-{config.activation}", 120) + (
        f"-seed{config.seed}-{digest}"
    )


def _rate(accuracy: float, n: int) -> str:
    """An accuracy on `n` images in percent with its 95% interval."""
    from satbench.reporting.rounding import down, outward
    from satbench.results.metrics import wilson

    return f"{down(accuracy)} {outward(*wilson(round(accuracy * n), n))}"


def _eps(eps: float) -> str:
    from satbench.core.eps import format_eps

    return format_eps(eps)
