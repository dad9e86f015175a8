"""`satbench plugins`."""

import textwrap

from satbench.cli.output import echo


def command() -> None:
    """Show what code of your own can be plugged in, where it is named, and the signature it must have."""
    from satbench.core.plugins import PLUGINS, SOCKETS, allowed

    echo(
        "Name your code as package.module:callable, with arguments as package.module:callable:key=value,key=value.\n"
        "Modules in the current folder are found too."
    )
    for kind, socket in SOCKETS.items():
        name = "NAME" if socket.option[-1] in "=+" else " NAME"
        echo(f"\n{kind}: {socket.command} {socket.option}{name}\n    {socket.signature}")
        echo(textwrap.indent(textwrap.fill(socket.words, 112), "    "))
    echo(
        "\nRuns, weights and study folders record these names. They import only what you named in the same command or\n"
        f"allow in {PLUGINS}, modules or packages with commas between; now: {', '.join(allowed()) or 'none'}"
    )
