"""`satbench eval`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[
        str,
        typer.Option(
            help="A name from `satbench models`, timm:NAME, torchvision:NAME, package.module:callable, "
            "a run folder or a .safetensors file."
        ),
    ],
    attack: Annotated[
        list[str],
        typer.Option(
            help="fgsm, pgd, sat-pgd, rapid, cascade, autoattack, apgd-ce, apgd-dlr, apgd-t, fab, fab-t, square, "
            "foolbox:NAME, package.module:callable; with parameters: pgd:loss=margin,steps=20. May be repeated."
        ),
    ],
    norm: Annotated[str | None, typer.Option(help="Linf, L2, L1; comma list. Default: Linf.")] = None,
    eps: Annotated[
        str | None, typer.Option(help="Radius such as 8/255; comma list. Default: the training radius.")
    ] = None,
    threat: Annotated[
        list[str] | None,
        typer.Option(metavar="NORM:EPS", help="Instead of --norm and --eps: Linf:8/255. May be repeated."),
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of the attacks that have them; comma list.")] = None,
    restarts: Annotated[str | None, typer.Option(help="Restarts likewise; comma list.")] = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            help="digits, mnist, cifar10, cifar100, svhn or imagenet (all but digits also NAME:PATH), imagenet-sample, "
            "image_folder:PATH or npz:PATH."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that image files are resized to.")] = None,
    loader: Annotated[
        str | None, typer.Option(help="opencv-cubic, tf1-bicubic or torchvision, for ImageNet. Default: the model's.")
    ] = None,
    data_dir: Annotated[
        Path | None, typer.Option(help="Where relative data paths and ImageNet lie; or SATBENCH_DATA.")
    ] = None,
    n: Annotated[int | None, typer.Option("--n", help="Only the first N images of the split.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images at a time. Default: chosen from the network's size, at most 256.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides every random number of the run.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    checkpoint: Annotated[
        Path | None,
        typer.Option(help="Other weights for it: a weights file or, for registry names, also a TensorFlow prefix."),
    ] = None,
    source: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Search on this network instead: a transfer attack.")
    ] = None,
    search: Annotated[
        str,
        typer.Option(
            help="folded (a faster copy that agrees), plain, bf16 (faster, weaker), or surrogate (ReLU's derivative "
            "smoothed); judged as it is, in float32."
        ),
    ] = "folded",
    draws: Annotated[
        int | None,
        typer.Option(help="Passes of which the majority decides. Default: 10 for a random network, else 1."),
    ] = None,
    save_examples: Annotated[bool, typer.Option(help="Keep what broke an image, for `satbench verify`.")] = False,
    trust: Annotated[bool, typer.Option(help="Check the network with a tenth of the run's passes.")] = True,
    threads: Annotated[
        int | None,
        typer.Option(
            help="Threads on the CPU. Default: one for a small network, else all; the last bits depend on it."
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What tables call the network.")] = None,
    group: Annotated[str | None, typer.Option(help="Networks of one group are seeds of one model in tables.")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Run folder, default reports/runs/eval-<...>; one that is there already is continued."),
    ] = None,
) -> None:
    """Attack a network and record, image by image, what survives."""
    import dataclasses
    import shlex
    import sys

    from satbench.cli.progress import progress_bar
    from satbench.evaluation import make_request, run_request
    from satbench.reporting.claims import compare, read_claims
    from satbench.reporting.claims import to_markdown as claims_table
    from satbench.reporting.stages import stage_table
    from satbench.reporting.summary import summarise
    from satbench.reporting.table_forms import markdown_table, to_markdown
    from satbench.reporting.tables import accuracy_table
    from satbench.zoo import load

    fields = {
        "checkpoint": checkpoint,
        "source": source,
        "dataset": dataset,
        "split": split,
        "image_size": image_size,
        "loader": loader,
        "n": n,
        "seed": seed,
        "search": search,
        "batch_size": batch_size,
        "draws": draws,
        "threads": threads,
        "save_examples": save_examples,
        "trust": trust,
        "name": name,
        "group": group,
    }
    asked = make_request(model, attack, norm, eps, steps, restarts, threat or (), fields)
    if dataset is None and checkpoint is None:
        check_images(model, split, data_dir)
    with progress_bar(f"fetch {model}", "bytes") as report:
        loaded = load(model, checkpoint, device, report)
    if loaded.note:
        typer.echo(loaded.note)
    words = ["satbench", *sys.argv[1:]]
    with progress_bar(f"eval {loaded.info.label}", "image-attacks") as report:
        folder = out or Path("reports", "runs", _folder(name or loaded.info.label, asked.spec.digest, device))
        run = run_request(dataclasses.replace(asked, model=loaded), folder, data_dir, device, shlex.join(words), report)
    if run.reused:
        typer.echo(f"read from {run.path}, measured on {run.manifest.created}; nothing was computed")
    rows = summarise([run])
    typer.echo(to_markdown(accuracy_table(rows)))
    stages = stage_table(run)
    if len(stages):
        typer.echo(markdown_table(stages) + "\n")
    claims = read_claims()
    compared = compare(claims, loaded.info.ref, loaded.loader, loaded.image_size, run.manifest.data, rows)
    if compared:
        typer.echo(claims_table(claims, compared) + "\n")
    if run.manifest.trust:
        checked = run.manifest.trust
        typer.echo(f"trust, {checked.depth} form: {checked.verdict}")
        for finding in checked.findings:
            if finding.outcome != "pass":
                tried = f"; try --attack {finding.next_attack}" if finding.next_attack else ""
                typer.echo(f"- {finding.outcome}, {finding.check}: {finding.sentence}{tried}")
    for note in run.manifest.notes:
        typer.echo(f"note: {note}")
    typer.echo(f"seal: {run.manifest.seal[:16]}")
    typer.echo(f"{run.path}")


def check_images(model: str, split: str | None, data_dir: Path | None) -> None:
    """Refuse images that are not there before a gigabyte of weights is fetched for them."""
    from satbench.data import load_images
    from satbench.zoo.card import find_card, is_card
    from satbench.zoo.released import ABSENT, state

    if is_card(model):
        own, card = find_card(model)
        if state(own, card) == ABSENT:
            load_images(card.dataset, split, data_dir=data_dir)


def _folder(label: str, digest: str, device: str) -> str:
    """Of one evaluation on one kind of device."""
    from satbench.numerics.device import resolve_device

    kind = resolve_device(device).type
    return f"eval-{label.replace(' ', '-').replace('/', '-')}-{digest[:8]}" + ("" if kind == "cpu" else f"-{kind}")
