"""`satbench eval`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli import options
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import check_amount, echo, echo_table, echo_verdict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from satbench.reporting.summary import Row
    from satbench.results.store import Run
    from satbench.zoo import Loaded


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
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Attack a network and record, image by image, what survives."""
    import dataclasses
    import shlex
    import sys

    from satbench.cli.asked import in_words, stated
    from satbench.cli.progress import announce, progress_bar
    from satbench.core.files import check_output_path

    check_amount(quiet, verbose, as_json)
    spec = stated(ctx.params)
    if out is not None:
        check_output_path(out)
    announce(f"eval {model}: {in_words(spec)}; time left follows, satbench cost predicts it", quiet)

    from satbench.results.store import check_run_folder

    if out is not None:
        check_run_folder(out)

    from satbench.evaluation import make_request, run_request
    from satbench.zoo import load

    asked = make_request(model, attack, norm, eps, steps, restarts, threat or (), options.spec_fields(ctx.params))
    if dataset is None and checkpoint is None:
        check_images(model, split, data_dir)
    with progress_bar(f"fetch {model}", quiet=quiet) as report:
        loaded = load(model, checkpoint, device, report)
    words = ["satbench", *sys.argv[1:]]
    with progress_bar(f"eval {loaded.info.label}", quiet=quiet) as report:
        folder = out or Path("reports", "runs", _folder(name or loaded.info.label, asked.spec.digest, device))
        run = run_request(dataclasses.replace(asked, model=loaded), folder, data_dir, device, shlex.join(words), report)
    if as_json:
        echo(_as_json(run))
    elif verbose:
        _echo_all(run, loaded)
    else:
        _echo_brief(run, loaded, quiet)


def _as_json(run: "Run") -> str:
    from satbench.core.files import to_json
    from satbench.reporting.brief import verdict, weakest
    from satbench.reporting.summary import summarise
    from satbench.reporting.table_forms import json_line
    from satbench.reporting.tables import accuracy_table

    lines = accuracy_table(summarise([run]))
    return to_json(
        {
            "run": str(run.path),
            "seal": run.manifest.seal,
            "reused": run.reused,
            "model": run.manifest.model.model_dump(mode="json"),
            "data": run.manifest.data.model_dump(mode="json"),
            "verdict": verdict(weakest(lines)),
            "rows": [json_line(line) for line in lines],
            "trust": run.manifest.trust and run.manifest.trust.model_dump(mode="json"),
            "notes": run.manifest.notes,
        }
    ).rstrip("\n")


def _echo_brief(run: "Run", loaded: "Loaded", quiet: bool) -> None:
    """A table of few columns, what is in doubt, and the verdict."""
    from satbench.reporting.brief import TONES, brief_table, verdict, weakest
    from satbench.reporting.joined import images_name
    from satbench.reporting.summary import summarise
    from satbench.reporting.tables import accuracy_table

    rows = summarise([run])
    lines = accuracy_table(rows)
    lowest = weakest(lines)
    if quiet:
        echo_verdict(verdict(lowest), TONES[lowest.trust])
        return
    _echo_origin(run, loaded)
    data = run.manifest.data
    echo(f"{lowest.name or loaded.info.label} on {images_name(data.name, data.split, data.loader)}")
    echo_table(brief_table(lines))
    _echo_published(run, loaded, rows)
    for finding in run.manifest.trust.findings if run.manifest.trust else ():
        if finding.outcome in ("suspicious", "fail"):
            echo(f"{finding.outcome}, {finding.check}: {finding.sentence}")
    for note in run.manifest.notes:
        echo(f"note: {note}")
    echo_verdict(verdict(lowest), TONES[lowest.trust])
    _echo_place(run)


def _echo_all(run: "Run", loaded: "Loaded") -> None:
    """Every column with its notes, the stages of ensembles, published figures, and what the trust battery found."""
    from satbench.reporting.brief import TONES, verdict, weakest
    from satbench.reporting.stages import stage_table
    from satbench.reporting.summary import summarise
    from satbench.reporting.table_forms import to_markdown
    from satbench.reporting.tables import accuracy_table

    _echo_origin(run, loaded)
    rows = summarise([run])
    lines = accuracy_table(rows)
    echo(to_markdown(lines))
    stages = stage_table(run)
    if len(stages):
        echo_table(stages)
    _echo_published(run, loaded, rows)
    if run.manifest.trust:
        checked = run.manifest.trust
        echo(f"trust, {checked.depth} form: {checked.verdict}")
        for finding in checked.findings:
            if finding.outcome != "pass":
                tried = f"; try --attack {finding.next_attack}" if finding.next_attack else ""
                echo(f"- {finding.outcome}, {finding.check}: {finding.sentence}{tried}")
    for note in run.manifest.notes:
        echo(f"note: {note}")
    lowest = weakest(lines)
    echo_verdict(verdict(lowest), TONES[lowest.trust])
    _echo_place(run)


def _echo_published(run: "Run", loaded: "Loaded", rows: "Sequence[Row]") -> None:
    """Every published figure of the network beside the measured one."""
    from satbench.reporting.claims_file import read_claims
    from satbench.reporting.published import compare, to_markdown

    claims = read_claims()
    compared = compare(claims, loaded.info.reference, loaded.loader, loaded.image_size, run.manifest.data, rows)
    if compared:
        echo(to_markdown(claims, compared) + "\n")


def _echo_origin(run: "Run", loaded: "Loaded") -> None:
    """What is to be known before the figures."""
    if loaded.note:
        echo(loaded.note)
    if run.reused:
        echo(f"read from {run.path}, measured on {run.manifest.created}; nothing was computed")


def _echo_place(run: "Run") -> None:
    echo(f"seal: {run.manifest.seal[:16]}")
    echo(f"{run.path}")


def check_images(model: str, split: str | None, data_dir: Path | None) -> None:
    """Refuse images that are not there before a gigabyte of weights is fetched for them."""
    from satbench.data import load_images
    from satbench.zoo.local import ABSENT, state
    from satbench.zoo.registry import find_card, is_card

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
