"""`satbench models`: the registry, what was published of it, and what of it is on this machine."""

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from satbench.cli import models_cache, models_own, models_pins
from satbench.cli.environment import Offline, Zoo
from satbench.cli.output import echo

if TYPE_CHECKING:
    from satbench.reporting.claims_file import PublishedFigure
    from satbench.zoo.card import Card, ReleasedCard

app = typer.Typer(help="List, fetch, import and verify the registry's networks.", invoke_without_command=True)
app.command("pull")(models_cache.pull)
app.command("fetch", hidden=True)(models_cache.pull)  # its name in version 0.1
app.command("import")(models_cache.import_)
app.command("verify")(models_cache.verify)
app.command("rm")(models_cache.remove)
app.command("gc")(models_cache.collect)
app.command("init-card")(models_own.init_card)
app.command("export")(models_own.export)
app.add_typer(models_pins.app, name="pins")


@app.callback()
def everything(context: typer.Context, offline: Offline = False, zoo: Zoo = None) -> None:
    """List the registry's networks, and the architectures and activations that can be trained."""
    if context.invoked_subcommand is not None:
        return
    from satbench.core.tables import ACTIVATIONS
    from satbench.models import ARCHITECTURES
    from satbench.zoo.registry import read_aliases, read_cards

    _print_table(read_cards())
    for name, alias in read_aliases().items():
        echo(f"  {name:<26} is {alias.alias}: {alias.because}")
    echo("Architectures (satbench train --model NAME):")
    for name, build in ARCHITECTURES.items():
        summary = (build.__doc__ or "").partition("\n")[0]
        echo(f"  {name:<20} {summary}")
    echo("Activations (satbench train --activation NAME or NAME:key=value):")
    for name, entry in ACTIVATIONS.items():
        smoothness = "∞" if entry.smoothness == float("inf") else int(entry.smoothness)
        defaults = "".join(f"; {key} = {value:g}" for key, value in entry.parameters.items())
        echo(f"  {name:<20} C{smoothness}  {entry.formula}{defaults}")


@app.command("list")
def list_(
    pattern: Annotated[str, typer.Argument(help="Names, such as 'resnet50-*'.")] = "*",
    family: Annotated[str | None, typer.Option(help="Architectures that begin so: resnet, efficientnet.")] = None,
    activation: Annotated[str | None, typer.Option(help="Such as silu.")] = None,
    threat: Annotated[str | None, typer.Option(metavar="NORM[:EPS]", help="Trained for: Linf or Linf:4/255.")] = None,
    fetched: Annotated[bool, typer.Option("--fetched", help="Only those on this machine.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print a list of objects for programs.")] = False,
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """List the networks of the registry that fit all conditions."""
    from satbench.core.eps import Threat, parse_eps
    from satbench.core.errors import BadInput
    from satbench.core.files import to_json
    from satbench.core.lookup import nearest
    from satbench.core.parsing import parsed
    from satbench.specs.activation import canonical
    from satbench.zoo.local import ABSENT, state
    from satbench.zoo.registry import entries, read_cards

    wanted = None if activation is None else canonical(activation)
    norm, colon, eps = (threat or "").partition(":")
    if threat is not None:
        parsed(Threat, {"norm": norm, "eps": 0.0}, f"--threat {threat}")
    radius = parse_eps(eps, norm) if colon else None

    def fits(name: str, card: "Card") -> bool:
        trained = card.trained_for
        return (
            fnmatchcase(name, pattern)
            and card.architecture.startswith(family or "")
            and wanted in (None, card.activation)
            and (threat is None or (trained is not None and trained.norm == norm))
            and (radius is None or (trained is not None and abs(trained.eps - radius) < 1e-9))
            and not (fetched and state(name, card) == ABSENT)
        )

    cards = read_cards()
    architectures = {card.architecture for card in cards.values()}
    if family is not None and not any(one.startswith(family) for one in architectures):
        raise BadInput(f"--family {family}: no architecture begins so; {nearest(family, architectures)}")
    if not any(fnmatchcase(name, pattern) for name in cards):
        raise BadInput(f"no network of the registry fits {pattern!r}; `satbench models list` shows all")
    found = {name: card for name, card in cards.items() if fits(name, card)}
    if json:
        registries = {name: entry.registry for name, entry in entries().items()}
        echo(to_json([_described(name, card, registries[name]) for name, card in found.items()]), nl=False)
    elif found:
        _print_table(found)
    else:
        raise BadInput("no network of the registry fits; `satbench models list` shows all")


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A name from `satbench models`.")],
    offline: Offline = False,
    zoo: Zoo = None,
) -> None:
    """Print a network's card: what it is, where it comes from, what was published, what is on this machine."""
    from satbench.reporting.claims_file import published, read_claims
    from satbench.zoo import cache
    from satbench.zoo.card import ReleasedCard
    from satbench.zoo.local import state
    from satbench.zoo.registry import entries, find_card
    from satbench.zoo.released import known_digests

    own, card = find_card(name)
    known = known_digests(own, card) if isinstance(card, ReleasedCard) else None
    alias = entries()[name].card
    echo(own if own == name else f"{name} is {own}: {getattr(alias, 'because', '')}")
    for field, value in card.model_dump(exclude={"digests", "sources", "trained_for", "extra_data"}).items():
        echo(f"  {field}: {value:,}" if field in ("parameters", "size") and value else f"  {field}: {value}")
    echo(f"  trained_for: {card.trained_for}")
    if extra := getattr(card, "extra_data", None):
        echo(f"  extra_data: {extra}")
    echo(f"  registry: {entries()[own].registry}")
    if isinstance(card, ReleasedCard):
        echo("  sources (Google Drive ids):")
        for part, source in card.sources.model_dump().items():
            echo(f"    {part}: {source}")
        _show_digests(card, known)
        echo(f"  cache: {cache.found(cache.folder(own))}, {state(own, card)}")
    claims = read_claims()
    found = published(claims, own)
    echo("  published, in percent:" if found else "  published: nothing")
    for claim in found:
        echo(f"    {claim.figure} {claim} ({claims.sources[claim.source].where})")


def _print_table(cards: "dict[str, Card]") -> None:
    from satbench.reporting.claims_file import headline, published, read_claims
    from satbench.zoo.local import state

    claims = read_claims()
    echo("Registry (satbench eval --model NAME); accuracies in percent as published, not measured here:")
    echo(f"  {'name':<26} {'parameters':>11}  {'clean':<15} {'robust':<25} fetched")
    for name, card in cards.items():
        clean, robust = (_figure(claim) for claim in headline(published(claims, name)))
        echo(f"  {name:<26} {card.parameters:>11,}  {clean:<15} {robust:<25} {state(name, card)}")


def _described(name: str, card: "Card", registry: str) -> dict[str, Any]:
    from satbench.reporting.claims_file import published, read_claims
    from satbench.zoo.local import state

    claims = [
        {"figure": claim.figure, "steps": claim.steps, "percent": claim.percent, "source": claim.source}
        for claim in published(read_claims(), name)
    ]
    said = card.model_dump(mode="json", exclude={"sources", "digests"})
    return {"name": name, **said, "registry": registry, "state": state(name, card), "published": claims}


def _figure(claim: "PublishedFigure | None") -> str:
    if claim is None:
        return "-"
    what = f"{claim.figure}, " if claim.steps else ""
    return f"{claim} ({what}{claim.source})"


def _show_digests(card: "ReleasedCard", known: dict[str, str] | None) -> None:
    if known is None:
        echo("  digests: unknown; the first download or import pins them")
        return
    origin = "stated on the card" if card.stated_digests else "pinned at the first use on this machine"
    echo(f"  digests (SHA-256, {origin}):")
    for file, digest in known.items():
        echo(f"    {file}: {digest}")
