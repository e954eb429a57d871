"""Commands about the keys of the API."""

from typing import Annotated

import typer

from tpictl.cli.options import JsonOption, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()

key_app = typer.Typer(
    help="Keys that clients on other machines need for the API.",
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(key_app, name="key")

KeyName = Annotated[str, typer.Argument(metavar="NAME", help="What to call the key, such as who uses it.")]


@key_app.command("create")
def key_create(name: KeyName, json: JsonOption = False, socket: SocketOption = None) -> None:
    """Make a key and print it, this once.

    \b
    Example:
      tpictl key create phone
    """
    with reporting(as_json=json):
        from tpictl.commands.keys import run_create  # noqa: PLC0415

        run_create(client_at(socket), name, as_json=json)


@key_app.command("list")
def key_list(json: JsonOption = False, socket: SocketOption = None) -> None:
    """List the keys by name; they themselves are not kept.

    \b
    Example:
      tpictl key list
    """
    with reporting(as_json=json):
        from tpictl.commands.keys import run_list  # noqa: PLC0415

        run_list(client_at(socket), as_json=json)


@key_app.command("revoke")
def key_revoke(name: KeyName, json: JsonOption = False, socket: SocketOption = None) -> None:
    """Make a key useless, at once.

    \b
    Example:
      tpictl key revoke phone
    """
    with reporting(as_json=json):
        from tpictl.commands.keys import run_revoke  # noqa: PLC0415

        run_revoke(client_at(socket), name, as_json=json)
