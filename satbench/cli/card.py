"""`satbench card`."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.reporting.model_card import Published
    from satbench.results.schema import ModelInfo
    from satbench.results.store import Run
    from satbench.zoo import Loaded


def command(
    name: Annotated[
        str,
        typer.Argument(metavar="MODEL_OR_RUN", help="A run folder of `satbench eval`, or a network as for --model."),
    ],
    measured: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Another run of the network. May be repeated.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights. Default: what the registry says.")] = None,
    out: Annotated[Path | None, typer.Option(help="File to write, such as README.md. Default: print it.")] = None,
    zoo: Zoo = None,
    offline: Offline = False,
) -> None:
    """Write a model card in Markdown, with the front matter of the Hugging Face Hub: the README of a model repository.

    Of a run folder it says what the run says, without loading the network.
    """
    from satbench.cli.progress import announce
    from satbench.core.errors import BadInput
    from satbench.core.files import check_output_file, write_text

    if out is not None:
        check_output_file(out)
    announce(f"card of {name}: some seconds")

    from satbench.reporting.model_card import LIBRARY, model_card
    from satbench.reporting.repeat import load_statement
    from satbench.results.store import MANIFEST, read_run

    if (
        out is not None
        and out.is_file()
        and f"library_name: {LIBRARY}" not in out.read_text(encoding="utf-8", errors="replace")
    ):
        raise BadInput(f"--out {out} is there and is no model card of satbench; give another file")
    runs = [read_run(path) for path in measured or ()]
    if (Path(name) / MANIFEST).is_file():
        runs.insert(0, read_run(Path(name)))
        info, data = runs[0].manifest.model, runs[0].manifest.data
        facts: dict[str, object] = {"activation": info.activation, "data set": data.name, "image size": data.image_size}
        colours = ""
    else:
        from satbench.cli.progress import progress_bar
        from satbench.evaluation.sources import identified
        from satbench.zoo import export, load

        with progress_bar(f"fetch {name}") as report:
            loaded = identified(load(name, progress=report))
        info, facts = loaded.info, network_facts(loaded)
        colours = export.colours(loaded)
    runs = runs_of(info, runs, name)
    stated, figures = licence or known_licence(info.reference), published_figures(info.reference)
    loading = load_statement(info)
    usage = f"import satbench\n\n{loading}" if loading else ""
    text = model_card(title_of(info), info, facts, stated, runs, figures, usage=usage, images=colours)
    if out is None:
        echo(text, nl=False)
    else:
        write_text(out, text)
        echo(f"{out}")


def title_of(info: "ModelInfo") -> str:
    """What a card is called: the name in the registry, else the label of the network."""
    from satbench.zoo.registry import is_card

    return info.reference if is_card(info.reference) else info.label


def network_facts(loaded: "Loaded") -> dict[str, object]:
    """What a card says of a network that was loaded."""
    from satbench.zoo.registry import find_card, is_card

    reference = loaded.info.reference
    return {
        "summary": find_card(reference)[1].summary if is_card(reference) else None,
        "parameters": f"{sum(parameter.numel() for parameter in loaded.model.parameters()):,}",
        "architecture": getattr(getattr(loaded.model, "spec", None), "architecture", None),
        "activation": loaded.info.activation,
        "data set": loaded.dataset,
        "image size": loaded.image_size,
        "training images": loaded.train_digest,
    }


def runs_of(info: "ModelInfo", runs: "list[Run]", name: str) -> "list[Run]":
    """The runs, with commands that call the network as `info` does; refuses a run of another network."""
    from satbench.core.errors import BadInput

    found = []
    for run in runs:
        said = run.manifest.model
        if (said.digest, said.code) != (info.digest, info.code):
            raise BadInput(f"{run.path} measured another network than {name} is now ({said.digest}); leave it out")
        called = said.model_copy(update={key: getattr(info, key) for key in ("ref", "checkpoint", "in_memory")})
        found.append(replace(run, manifest=run.manifest.model_copy(update={"model": called})))
    return found


def published_figures(ref: str) -> "Published":
    """What was published of a network of the registry, each figure with where."""
    from satbench.reporting.claims_file import published, read_claims

    claims = read_claims()
    return [(claim, claims.sources[claim.source].where) for claim in published(claims, ref)]


def known_licence(name: str) -> str | None:
    """The licence of a network of a registry; None for any other."""
    from satbench.zoo.registry import find_card, is_card

    return find_card(name)[1].licence if is_card(name) else None
