"""`satbench eval`."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo


def command(
    ctx: typer.Context,
    model: Annotated[str, typer.Option(help=options.NETWORK)],
    attack: Annotated[list[str], typer.Option(help=options.ATTACK)],
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
    save_examples: Annotated[bool, typer.Option(help="Keep what broke an image, for `satbench verify`.")] = False,
    name: Annotated[str | None, typer.Option(help="What tables call the network.")] = None,
    group: Annotated[str | None, typer.Option(help="Networks of one group are seeds of one model in tables.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder, default reports/runs/eval-<...>; one that is there already is continued."),
    ] = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Attack a network and record, image by image, what survives."""
    import dataclasses
    import shlex
    import sys

    from satbench.cli.progress import progress_bar
    from satbench.evaluation import make_request, run_request
    from satbench.reporting.claims_file import read_claims
    from satbench.reporting.published import compare
    from satbench.reporting.published import to_markdown as claims_table
    from satbench.reporting.stages import stage_table
    from satbench.reporting.summary import summarise
    from satbench.reporting.table_forms import markdown_table, to_markdown
    from satbench.reporting.tables import accuracy_table
    from satbench.results.store import check_run_folder
    from satbench.zoo import load

    if out is not None:
        check_run_folder(out)
    asked = make_request(model, attack, norm, eps, steps, restarts, threat or (), options.spec_fields(ctx.params))
    if dataset is None and checkpoint is None:
        check_images(model, split, data_dir)
    with progress_bar(f"fetch {model}", "bytes") as report:
        loaded = load(model, checkpoint, device, report)
    if loaded.note:
        echo(loaded.note)
    words = ["satbench", *sys.argv[1:]]
    with progress_bar(f"eval {loaded.info.label}", "image-attacks") as report:
        folder = out or Path("reports", "runs", _folder(name or loaded.info.label, asked.spec.digest, device))
        run = run_request(dataclasses.replace(asked, model=loaded), folder, data_dir, device, shlex.join(words), report)
    if run.reused:
        echo(f"read from {run.path}, measured on {run.manifest.created}; nothing was computed")
    rows = summarise([run])
    echo(to_markdown(accuracy_table(rows)))
    stages = stage_table(run)
    if len(stages):
        echo(markdown_table(stages) + "\n")
    claims = read_claims()
    compared = compare(claims, loaded.info.ref, loaded.loader, loaded.image_size, run.manifest.data, rows)
    if compared:
        echo(claims_table(claims, compared) + "\n")
    if run.manifest.trust:
        checked = run.manifest.trust
        echo(f"trust, {checked.depth} form: {checked.verdict}")
        for finding in checked.findings:
            if finding.outcome != "pass":
                tried = f"; try --attack {finding.next_attack}" if finding.next_attack else ""
                echo(f"- {finding.outcome}, {finding.check}: {finding.sentence}{tried}")
    for note in run.manifest.notes:
        echo(f"note: {note}")
    echo(f"seal: {run.manifest.seal[:16]}")
    echo(f"{run.path}")


def check_images(model: str, split: str | None, data_dir: Path | None) -> None:
    """Refuse images that are not there before a gigabyte of weights is fetched for them."""
    from satbench.data import load_images
    from satbench.zoo.registry import find_card, is_card
    from satbench.zoo.released import state
    from satbench.zoo.weights_file import ABSENT

    if is_card(model):
        own, card = find_card(model)
        if card.dataset is not None and state(own, card) == ABSENT:
            load_images(card.dataset, split, data_dir=data_dir)


def _folder(label: str, digest: str, device: str) -> str:
    """Of one evaluation on one kind of device."""
    from satbench.core.names import path_part
    from satbench.numerics.device import resolve_device

    kind = resolve_device(device).type
    return f"eval-{path_part(label)}-{digest[:8]}" + ("" if kind == "cpu" else f"-{kind}")
