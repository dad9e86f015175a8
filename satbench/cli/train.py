"""`satbench train`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import check_amount, echo, echo_table, echo_verdict
from satbench.core.lookup import find
from satbench.core.tables import ARCHITECTURES, METHODS

if TYPE_CHECKING:
    import pandas as pd

    from satbench.reporting.brief import Tone
    from satbench.training import TrainConfig, Trained


def command(
    recipe: Annotated[
        str, typer.Argument(help="Named run, or a config.json or YAML file; options replace parts of it.")
    ] = "digits-sat",
    model: Annotated[
        str | None, typer.Option(help=f"{', '.join(ARCHITECTURES)}, timm:NAME or package.module:callable.")
    ] = None,
    activation: Annotated[str | None, typer.Option(help="Activation, such as silu or relu.")] = None,
    method: Annotated[str | None, typer.Option(help=f"{', '.join(METHODS)} or package.module:callable.")] = None,
    dataset: Annotated[str | None, typer.Option(help=options.DATASET)] = None,
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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Train a network adversarially; the same command continues an interrupted run, and more --epochs a finished one.

    Settings for --set: optimizer.lr, batch_size, schedule, threat.eps, method.steps, model.width, averaging=ema,
    label_smoothing.amount, data.val=0.02 or 1000 or none, speed.precision=bf16 and every other field of the run's
    config.json; a list is written 75+90, pairs 0:1+60:2. Code of your own stands in for every name, see `satbench
    plugins`. On several GPUs: torchrun --nproc-per-node N -m satbench train ...
    """
    import os
    from functools import partial

    from satbench.cli.progress import announce, progress_bar
    from satbench.core.files import check_output_path

    check_amount(quiet, verbose)
    given: dict[str, Any] = {
        "model": model,
        "activation": activation,
        "method": method,
        "dataset": dataset,
        "data.train_n": train_n,
        "epochs": epochs,
        "seed": seed,
    }
    given = {key: value for key, value in given.items() if value is not None}
    settings = partial(_settings, recipe, device, data_dir, given, set_ or [])
    if "RANK" not in os.environ:  # processes of torchrun refuse below, where one of them reports it
        settings()
        if out is not None:
            check_output_path(out)
    next_ = "a few updates say what it costs" if is_dry else "time left follows, --dry-run predicts it"
    announce(f"train {recipe}: {next_}", quiet)

    from satbench.core.progress import silent
    from satbench.numerics.device import resolve_device
    from satbench.recipes import named
    from satbench.recipes import recipe as recipe_of
    from satbench.training import train
    from satbench.training.build import check_start
    from satbench.training.distributed import joined
    from satbench.training.dry_run import described, dry_run

    with joined(resolve_device(device)) as (processes, place):  # here, so that they report a refusal once
        config = named(recipe_of(recipe).with_values(settings()))
        out = out or Path("reports", "runs", _name(config))
        is_first = processes.rank == 0
        if note := check_start(config):
            announce(note, quiet)
        if is_dry:
            for line in described(config, dry_run(config, str(place), data_dir)) if is_first else ():
                echo(line)
            return
        with progress_bar(f"train {config.label}", quiet=quiet) as report:
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
    _echo(trained, config, out, keep_every, quiet, verbose)


def _settings(
    recipe: str, device: str, data_dir: Path | None, given: dict[str, Any], assignments: list[str]
) -> dict[str, Any]:
    """The settings of options and --set; raises `BadInput` for wrong names and spellings without importing torch."""
    from satbench.core.devices import check_device
    from satbench.core.errors import BadInput
    from satbench.core.plugins import is_reference, spelled
    from satbench.specs.activation import parse_activation
    from satbench.specs.names import check_data_path, check_data_set, check_recipe

    check_device(device)
    check_recipe(recipe)
    values = dict(given)
    for item in assignments:
        key, equals, value = item.partition("=")
        if not equals:
            raise BadInput(f"--set {item!r} is not KEY=VALUE; write --set optimizer.lr=0.05")
        if key.strip() in values:
            raise BadInput(f"{key.strip()} is given twice; give it once")
        values[key.strip()] = value.strip()
    for key, table in (("model", ARCHITECTURES), ("method", METHODS)):
        word, _ = spelled(str(values.get(key, "")), table)
        if word and not is_reference(word):
            find(dict.fromkeys(table), word, key)
    if "dataset" in values:
        check_data_set(values["dataset"])
        check_data_path(values["dataset"], data_dir)
    if "activation" in values:
        parse_activation(values["activation"])
    return values


def _echo(
    trained: "Trained", config: "TrainConfig", out: Path, keep_every: int | None, quiet: bool, verbose: bool
) -> None:
    """The best and the last epoch as a table and as the verdict, what happened on the way, and what comes next."""
    from satbench.reporting.plots import save, training_curves
    from satbench.training.checkpoint import epoch_file
    from satbench.training.ending import in_words
    from satbench.training.log import measuring_share
    from satbench.zoo import BEST

    files = save(training_curves({config.label: trained.history}), out, "curves")
    alarms = [row for row in trained.history if row.alarm]
    sentence, tone = _verdict(trained, config)
    if quiet:
        echo_verdict(sentence, tone)
        return
    if trained.was_finished:
        echo("the run was finished before: nothing was trained, logged or tracked")
    table = _table(trained, config)
    if len(table):
        echo_table(table)
    if trained.times and verbose:
        echo(f"measuring took {measuring_share(trained.times):.0%} of the time")
    for row in alarms:
        echo(f"alarm in epoch {row.epoch + 1}, catastrophic overfitting: {row.alarm}")
    if ended := in_words(trained.history[-1].ended, config):
        echo(f"ended after epoch {len(trained.history)} of {config.epochs}: {ended}")
    if keep_every is not None:
        wanted = [epoch_file(out, epoch - 1) for epoch in range(keep_every, len(trained.history) + 1, keep_every)]
        for file in wanted:
            echo(f"{file}" if file.is_file() else f"{file} was not kept: that epoch was over before --keep-every")
    echo_verdict(sentence, tone)
    for file in (*files, out / BEST):
        echo(f"{file}")
    echo(f"next: {_next(config, out)}")


def _table(trained: "Trained", config: "TrainConfig") -> "pd.DataFrame":
    """The figures on the validation split of the best and the last epoch, and of where the last stage began.

    Beside them is what the method logged of both epochs.
    """
    import pandas as pd

    from satbench.methods.base import START
    from satbench.training.evaluators import evaluators_of, figures_of

    best, last = trained.history[trained.best_epoch], trained.history[trained.last_epoch]
    if best.val is None or last.val is None:
        return pd.DataFrame()
    n, rates, start = last.val.n, figures_of(evaluators_of(config)), last.method
    logged = [name for name in start if not name.startswith(START)]  # such as the scale of a regulated attack
    rates |= dict.fromkeys(logged, False)
    found = {
        f"best, {best.epoch + 1} of {config.epochs}": best.val.figures | best.method,
        f"last, {last.epoch + 1} of {config.epochs}": last.val.figures | last.method,
        "where its stage began": {name: start[f"{START}{name}"] for name in rates if f"{START}{name}" in start},
    }
    return pd.DataFrame(
        {
            "epoch": where,
            **{
                f"{name} %" if rates[name] else name: _figure(figures.get(name), n, rates[name])
                for name in (*best.val.figures, *logged)
            },
        }
        for where, figures in found.items()
        if figures
    )


def _verdict(trained: "Trained", config: "TrainConfig") -> tuple[str, "Tone"]:
    """The figure by which the best epoch was chosen, and what the last epoch lost of it."""
    from satbench.reporting.rounding import inward
    from satbench.training.evaluators import evaluators_of, figures_of

    best, last = trained.history[trained.best_epoch], trained.history[trained.last_epoch]
    tone: Tone = "doubt" if any(row.alarm for row in trained.history) else "good"
    if best.val is None or last.val is None:
        return "no validation split: nothing was measured, and the best epoch is the last one", "doubt"
    name, evaluators = trained.best.figures[0], evaluators_of(config)
    is_rate = figures_of(evaluators)[name]
    value = _figure(best.val.figures[name], best.val.n, is_rate)
    lost = f", best - last {inward(best.val.figures[name] - last.val.figures[name])} points" if is_rate else ""
    is_attacked = any(name in one.under_attack for one in evaluators)
    where = f"at {config.threat.norm} {_eps(config.threat.eps)}" if is_attacked else "without an attack"
    n = best.val.n
    return f"best epoch {best.epoch + 1}: {name} {value}{' %' * is_rate} {where} on {n} validation images{lost}", tone


def _next(config: "TrainConfig", out: Path) -> str:
    """The command that measures the run; first the one that reads it out, where its last layer learnt nothing."""
    from satbench.training.evaluators import Neighbours, evaluators_of
    from satbench.training.stages import method_of, stage_configs

    model, attack, readout = out, "pgd", ""
    if not method_of(stage_configs(config)[-1]).labelled:
        k = next((f":k={one.k}" for one in evaluators_of(config) if isinstance(one, Neighbours)), "")
        model, attack = out / "knn.safetensors", "knn-guided"
        readout = f"satbench readout {out} knn{k} --out {model}, as its last layer was not trained; then "
    return f"{readout}satbench eval --model {model} --attack {attack} --eps {_eps(config.threat.eps)} --steps 50"


def _figure(value: float | None, n: int, is_rate: bool) -> str:
    if value is None:
        return "-"
    return _rate(value, n) if is_rate else f"{value:.4g}"


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
