"""`satbench models pull`, `import`, `verify`, `rm` and `gc`: what of the registry's networks is on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo


def pull(
    names: Annotated[list[str], typer.Argument(help="Names from `satbench models`, also as patterns: 'resnet50-*'.")],
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """Download networks and convert them where needed; size and licence are printed before."""
    from satbench.cli.progress import progress_bar
    from satbench.zoo.loading import fetch_weights
    from satbench.zoo.local import ABSENT, state
    from satbench.zoo.registry import matching
    from satbench.zoo.weights_file import download_size, size_words

    chosen = {name: card for pattern in names for name, card in matching(pattern).items()}
    absent = {name: card for name, card in chosen.items() if state(name, card) == ABSENT}
    if len(absent) > 1:
        total = sum(download_size(card) or 0 for card in absent.values())
        echo(f"{len(absent)} networks to download, at least {size_words(total)}: {', '.join(absent)}")
    for name, card in chosen.items():
        with progress_bar(f"pull {name}") as report:
            path = fetch_weights(name, card, report)
        echo(f"{name}: {path}")


def import_(
    name: Annotated[str, typer.Argument(help="Whose checkpoint it is: a name from `satbench models`.")],
    checkpoint_prefix: Annotated[Path, typer.Argument(help="The checkpoint's path without .index or .data-...")],
    out: Annotated[Path | None, typer.Option(help="Write a .safetensors file here instead of into the cache.")] = None,
    ema: Annotated[str, typer.Option(help="Moving averages: auto (as the card says), on or off.")] = "auto",
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """Convert a checkpoint that is already on this machine."""
    from satbench.zoo.registry import released_card
    from satbench.zoo.released import import_checkpoint

    own, card = released_card(name)
    done = import_checkpoint(own, card, checkpoint_prefix, out, ema)
    taken = "the moving averages" if done.converted.averaged else "the raw variables"
    echo(f"{own}: {done.converted.taken} variables; took {taken} (the file has {done.converted.averages} averages)")
    if done.converted.ignored:
        echo(f"ignored {len(done.converted.ignored)} others: {', '.join(done.converted.ignored)}")
    if checkpoint_prefix.name.removesuffix(".index") != card.release:
        echo(f"the files are not called {card.release}, as the release calls them; be sure that they are {own}'s")
    if not done.has_graph:
        echo(f"no .meta file lies beside them, so that {card.activation} was not checked against the graph")
    echo(f"{done.path}")


def verify(
    name: Annotated[
        str | None, typer.Argument(help="A name from `satbench models`; default: all that is there.")
    ] = None,
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """Hash the files again and run every converted network on its probe batch; exit 1 when anything is wrong."""
    from satbench.zoo.local import ABSENT, state
    from satbench.zoo.registry import find_card, read_cards
    from satbench.zoo.released import faults

    wrong = False
    for own, card in (dict([find_card(name)]) if name is not None else read_cards()).items():
        if state(own, card) != ABSENT:
            found = faults(own, card) or ["ok"]
        elif name is not None:
            found = [f"not fetched; run `satbench models pull {own}`"]
        else:
            continue
        wrong = wrong or found != ["ok"]
        for line in found:
            echo(f"{own}: {line}")
    raise typer.Exit(int(wrong))


def remove(
    names: Annotated[list[str], typer.Argument(help="Names from `satbench models`, also as patterns.")],
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """Delete downloaded and converted files of networks; their pins stay."""
    from satbench.zoo.cleaning import remove as delete
    from satbench.zoo.registry import matching
    from satbench.zoo.weights_file import size_words

    for name, card in {name: card for pattern in names for name, card in matching(pattern).items()}.items():
        freed = delete(name, card)
        echo(f"{name}: {size_words(freed)} freed" if freed else f"{name}: nothing to delete")


def collect(offline: Offline = False, zoo: Zoo = None) -> None:
    """Delete what interrupted and refused downloads have left, out-of-date conversions, and long unread pixels."""
    from satbench.data.decoded import unread
    from satbench.zoo.cleaning import collect as clean
    from satbench.zoo.weights_file import size_words

    done = clean()
    for path in unread():
        done.delete(path)
    for path, size in done.deleted.items():
        echo(f"deleted {path} ({size_words(size)})")
    for name in done.busy:
        echo(f"{name}: another process works on it; left as it is")
    for name in done.unknown:
        echo(f"{name}: no card of that name; kept in case another registry (--zoo) has it")
    echo(f"{size_words(sum(done.deleted.values()))} freed")
