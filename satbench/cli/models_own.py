"""`satbench models init-card` and `export`: networks of one's own, given to others."""

from pathlib import Path
from typing import Annotated

import typer


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
    fields = new_card(checkpoint, given, out)
    if out is None:
        typer.echo(entry_text(name, fields), nl=False)
        return
    add_card(out, name, fields)
    typer.echo(f"{out}: {name}; use it with --model {name} --zoo {out}")
