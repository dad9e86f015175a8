"""`satbench models`."""

import typer


def command() -> None:
    """List the registry's networks, and the architectures and activations that can be trained."""
    from satbench.models import ACTIVATIONS, ARCHITECTURES
    from satbench.zoo.card import read_cards

    typer.echo("Registry (satbench eval --model NAME):")
    for name, card in read_cards().items():
        threat = f"{card.trained_for.norm} {card.trained_for.eps}"
        network = f"{card.architecture} {card.activation}, {card.parameters:,} parameters, {threat}"
        typer.echo(f"  {name:<20} {network}; {card.summary}")
    typer.echo("Architectures (satbench train --model NAME):")
    for name, build in ARCHITECTURES.items():
        summary = (build.__doc__ or "").partition("\n")[0]
        typer.echo(f"  {name:<20} {summary}")
    typer.echo("Activations (satbench train --activation NAME):")
    for name, entry in ACTIVATIONS.items():
        typer.echo(
            f"  {name:<20} C{'∞' if entry.smoothness == float('inf') else int(entry.smoothness)}  {entry.formula}"
        )
