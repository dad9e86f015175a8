"""`satbench models`: the registry, what was published of it, and what of it is on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.reporting.claims import Claim
    from satbench.zoo.card import ReleasedCard

app = typer.Typer(help="List, fetch, import and verify the registry's networks.", invoke_without_command=True)


@app.callback()
def table(context: typer.Context) -> None:
    """List the registry's networks, and the architectures and activations that can be trained."""
    if context.invoked_subcommand is not None:
        return
    from satbench.models import ACTIVATIONS, ARCHITECTURES
    from satbench.reporting.claims import headline, published, read_claims
    from satbench.zoo.card import read_aliases, read_cards
    from satbench.zoo.released import state

    claims = read_claims()
    echo("Registry (satbench eval --model NAME); accuracies in percent as published, not measured here:")
    echo(f"  {'name':<26} {'parameters':>11}  {'clean':<15} {'robust':<25} fetched")
    for name, card in read_cards().items():
        clean, robust = (_figure(claim) for claim in headline(published(claims, name)))
        echo(f"  {name:<26} {card.parameters:>11,}  {clean:<15} {robust:<25} {state(name, card)}")
    for name, alias in read_aliases().items():
        echo(f"  {name:<26} is {alias.alias}: {alias.because}")
    echo("Architectures (satbench train --model NAME):")
    for name, build in ARCHITECTURES.items():
        summary = (build.__doc__ or "").partition("\n")[0]
        echo(f"  {name:<20} {summary}")
    echo("Activations (satbench train --activation NAME or NAME:key=value):")
    for name, entry in ACTIVATIONS.items():
        smoothness = "∞" if entry.smoothness == float("inf") else int(entry.smoothness)
        defaults = "".join(f"; {key} = {value:g}" for key, value in entry.defaults.items())
        echo(f"  {name:<20} C{smoothness}  {entry.formula}{defaults}")


@app.command("show")
def show(name: Annotated[str, typer.Argument(help="A name from `satbench models`.")]) -> None:
    """Print a network's card: what it is, where it comes from, what was published, what is on this machine."""
    from satbench.reporting.claims import published, read_claims
    from satbench.zoo import cache
    from satbench.zoo.card import ReleasedCard, find_card, read_aliases
    from satbench.zoo.released import known_digests, state

    own, card = find_card(name)
    here = state(own, card)
    known = known_digests(own, card) if isinstance(card, ReleasedCard) else None
    echo(own if own == name else f"{name} is {own}: {read_aliases()[name].because}")
    for field, value in card.model_dump(exclude={"digests", "sources", "trained_for"}).items():
        echo(f"  {field}: {value:,}" if field == "parameters" else f"  {field}: {value}")
    echo(f"  trained_for: {card.trained_for}")
    if isinstance(card, ReleasedCard):
        echo("  sources (Google Drive ids):")
        for part, source in card.sources.model_dump().items():
            echo(f"    {part}: {source}")
        _show_digests(card, known)
        echo(f"  cache: {cache.folder(own)}, {here}")
    claims = read_claims()
    found = published(claims, own)
    echo("  published, in percent:" if found else "  published: nothing")
    for claim in found:
        echo(f"    {claim.figure} {claim} ({claims.sources[claim.source].where})")


@app.command("fetch")
def fetch(names: Annotated[list[str], typer.Argument(help="Names from `satbench models`.")]) -> None:
    """Fetch released checkpoints, check or pin their digests, and convert them."""
    from satbench.cli.progress import progress_bar
    from satbench.zoo.card import released_card
    from satbench.zoo.released import obtain_again_if_damaged

    for name, card in [released_card(name) for name in names]:
        with progress_bar(f"fetch {name}", "bytes") as report:
            path = obtain_again_if_damaged(name, card, report)
        echo(f"{name}: {path}")


@app.command("import")
def import_(
    name: Annotated[str, typer.Argument(help="Whose checkpoint it is: a name from `satbench models`.")],
    checkpoint_prefix: Annotated[Path, typer.Argument(help="The checkpoint's path without .index or .data-...")],
    out: Annotated[Path | None, typer.Option(help="Write a .safetensors file here instead of into the cache.")] = None,
    ema: Annotated[str, typer.Option(help="Moving averages: auto (as the card says), on or off.")] = "auto",
) -> None:
    """Convert a checkpoint that is already on this machine."""
    from satbench.zoo.card import released_card
    from satbench.zoo.released import import_checkpoint

    own, card = released_card(name)
    done = import_checkpoint(own, card, checkpoint_prefix, out, ema)
    taken = "the moving averages" if done.converted.averaged else "the raw variables"
    echo(f"{own}: {done.converted.taken} variables; took {taken} (the file has {done.converted.averages} averages)")
    if done.converted.ignored:
        echo(f"ignored {len(done.converted.ignored)} others: {', '.join(done.converted.ignored)}")
    if checkpoint_prefix.name.removesuffix(".index") != card.release:
        echo(f"the files are not called {card.release}, as the release calls them; be sure that they are {own}'s")
    echo(f"{done.path}")


@app.command("verify")
def verify(
    name: Annotated[
        str | None, typer.Argument(help="A name from `satbench models`; default: all that is there.")
    ] = None,
) -> None:
    """Hash the files again and run every converted network on its probe batch; exit 1 when anything is wrong."""
    from satbench.zoo.card import find_card, read_cards
    from satbench.zoo.released import ABSENT, faults, state

    wrong = False
    for own, card in (dict([find_card(name)]) if name is not None else read_cards()).items():
        if state(own, card) != ABSENT:
            found = faults(own, card) or ["ok"]
        elif name is not None:
            found = [f"not fetched; run `satbench models fetch {own}`"]
        else:
            continue
        wrong = wrong or found != ["ok"]
        for line in found:
            echo(f"{own}: {line}")
    raise typer.Exit(int(wrong))


def _figure(claim: "Claim | None") -> str:
    if claim is None:
        return "-"
    what = f"{claim.figure}, " if claim.steps else ""
    return f"{claim} ({what}{claim.source})"


def _show_digests(card: "ReleasedCard", known: dict[str, str] | None) -> None:
    if known is None:
        echo("  digests: unknown; the first fetch or import pins them")
        return
    origin = "stated on the card" if card.stated_digests else "pinned at the first use on this machine"
    echo(f"  digests (SHA-256, {origin}):")
    for file, digest in known.items():
        echo(f"    {file}: {digest}")
