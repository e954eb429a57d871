"""What runs here."""

import typer

from tpictl.cli.options import JsonOption, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()


@app.command()
def version(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Print the version of tpictl, and those of the daemon and of the devices that it sees.

    \b
    Example:
      tpictl version
    """
    with reporting(as_json=json):
        from tpictl.commands.version import run_version  # noqa: PLC0415

        run_version(client_at(socket), as_json=json)
