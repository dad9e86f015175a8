"""`satbench eval`."""

from pathlib import Path
from typing import Annotated

import typer


def command(
    model: Annotated[str, typer.Option(help="Run folder, .safetensors, registry name or package.module:callable.")],
    attack: Annotated[list[str], typer.Option(help="pgd, fgsm, autoattack; with parameters: pgd:loss=margin.")],
    norm: Annotated[str, typer.Option(help="Linf, L2, L1; comma list.")] = "Linf",
    eps: Annotated[
        str | None, typer.Option(help="Radius such as 8/255; comma list. Default: the training radius.")
    ] = None,
    steps: Annotated[str | None, typer.Option(help="Steps of the attacks that have them; comma list.")] = None,
    restarts: Annotated[str | None, typer.Option(help="Restarts likewise; comma list.")] = None,
    dataset: Annotated[str | None, typer.Option(help="digits, image_folder:PATH or npz:PATH.")] = None,
    split: Annotated[str | None, typer.Option(help="train, val, test or all.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side in pixels that image folders are resized to.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where relative data paths lie; or set SATBENCH_DATA.")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Only the first N images of the split.")] = None,
    batch_size: Annotated[int, typer.Option(help="Images at a time.")] = 256,
    seed: Annotated[int, typer.Option(help="Decides every random number of the run.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    checkpoint: Annotated[Path | None, typer.Option(help="Weights for package.module:callable.")] = None,
    out: Annotated[Path | None, typer.Option(help="Run folder; default reports/runs/eval-<...>.")] = None,
) -> None:
    """Attack a network and record, image by image, what survives."""
    import shlex
    import sys

    from satbench.cli.progress import progress_bar
    from satbench.errors import BadInput
    from satbench.evaluation import evaluate, sweep
    from satbench.reporting.summary import summarise
    from satbench.reporting.tables import accuracy_table, to_markdown
    from satbench.zoo import load

    loaded = load(model, checkpoint, device)
    if eps is None:
        sweep.threats(norm, "0")
        trained_for = loaded.info.trained_for
        if trained_for is None or trained_for.norm != norm:
            raise BadInput(
                f"model {model!r} does not say which {norm} radius it was trained for; give --eps, such as 8/255"
            )
        eps = repr(trained_for.eps)
    words = ["satbench", *sys.argv[1:]]
    name = _name(loaded.info.label, words)
    with progress_bar(f"eval {loaded.info.label}", "image-attacks") as report:
        run = evaluate(
            loaded,
            out or Path("reports", "runs", name),
            attack=attack,
            norm=norm,
            eps=eps,
            steps=steps,
            restarts=restarts,
            dataset=dataset,
            split=split,
            image_size=image_size,
            data_dir=data_dir,
            n=n,
            batch_size=batch_size,
            seed=seed,
            device=device,
            command=shlex.join(words),
            progress=report,
        )
    typer.echo(to_markdown(accuracy_table(summarise([run]))))
    typer.echo(f"{run.path}")


def _name(label: str, words: list[str]) -> str:
    """A folder name that differs whenever the command does."""
    import hashlib

    digest = hashlib.sha256("\0".join(words).encode()).hexdigest()[:8]
    return f"eval-{label.replace(' ', '-').replace('/', '-')}-{digest}"
