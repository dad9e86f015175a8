"""`satbench models init-card` and `export`: networks of one's own, given to others."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo


def init_card(
    checkpoint: Annotated[Path, typer.Argument(help="A run folder, a file that satbench wrote, or a state dict.")],
    name: Annotated[str, typer.Option(help="What the network will be called.")],
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="FIELD=VALUE", help="A field of the card. May be repeated.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Add the card to this registry file. Default: print it.")] = None,
) -> None:
    """Write the card of a checkpoint: digest, size, architecture; the network is built and run on two images."""
    import yaml

    from satbench.core.errors import BadInput
    from satbench.core.files import check_output_file
    from satbench.zoo.new_card import add_card, entry_text, new_card

    given = {}
    for part in set_ or ():
        field, equals, text = part.partition("=")
        if not equals:
            raise BadInput(f"--set {part}: expected FIELD=VALUE, such as licence=MIT")
        try:
            given[field] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise BadInput(f"--set {part}: the value is no YAML; write lists as '[0.5, 0.5, 0.5]'") from None
    if out is not None:
        check_output_file(out)
    fields = new_card(checkpoint, given, out)
    if out is None:
        echo(entry_text(name, fields), nl=False)
        return
    add_card(out, name, fields)
    echo(f"{out}: {name}; use it with --model {name} --zoo {out}")


def export(
    name: Annotated[str, typer.Argument(metavar="NAME_OR_RUN", help="A network as for `satbench eval`, or its run.")],
    to: Annotated[Path, typer.Option(metavar="DIR", help="Folder to write; a new or empty one.")],
    measured: Annotated[
        list[Path] | None, typer.Option(metavar="RUN", help="Evaluation whose numbers the card has. May be repeated.")
    ] = None,
    licence: Annotated[str | None, typer.Option(help="Of the weights. Default: what the registry says.")] = None,
    push: Annotated[str | None, typer.Option(metavar="hf:OWNER/NAME", help="Upload the folder to the Hub.")] = None,
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """Write a network with its state dict, config and a model card of what was measured; upload it where asked."""
    from satbench.cli.card import known_licence, network_facts, published_figures, runs_of, title_of
    from satbench.cli.progress import progress_bar
    from satbench.core.files import check_output_folder, write_text
    from satbench.core.plugins import check_allowed
    from satbench.evaluation.sources import identified
    from satbench.reporting.model_card import model_card
    from satbench.results.store import read_run
    from satbench.zoo import export as exports
    from satbench.zoo import is_own_network, load

    target = None if push is None else exports.repository(push)
    check_output_folder(to, option="--to")
    runs, checkpoint = [read_run(path) for path in measured or ()], None
    if (Path(name) / "manifest.json").is_file():
        runs.insert(0, read_run(Path(name)))
        said = runs[0].manifest.model
        if is_own_network(said.ref):
            check_allowed(said.ref, name)
        name, checkpoint = said.ref, None if said.checkpoint is None else Path(said.checkpoint)
    with progress_bar(f"fetch {name}") as report:
        loaded = identified(load(name, checkpoint, progress=report))
    runs = runs_of(loaded.info, runs, name)
    files = exports.export(loaded, to)
    facts, figures = network_facts(loaded), published_figures(loaded.info.reference)
    stated = licence or known_licence(loaded.info.reference)
    usage = exports.usage(loaded, target)
    title, colours = title_of(loaded.info), exports.colours(loaded)
    write_text(to / exports.CARD, model_card(title, loaded.info, facts, stated, runs, figures, files, usage, colours))
    echo(f"{to}: {', '.join([*files, exports.CARD])}")
    if target is not None:
        echo(exports.push(to, target))
