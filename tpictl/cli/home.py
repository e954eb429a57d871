"""Commands about the devices of a home."""

from typing import Annotated

import typer

from tpictl.cli.options import JsonOption, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()


@app.command()
def invite(
    user: Annotated[
        bool, typer.Option("--user", help="People may type there too, and invite others. Default: it only helps.")
    ] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Show a code by which one device joins this home, and wait for it. Ctrl-C takes the code back.

    \b
    Example:
      tpictl invite            here, then on the other device: tpictl join CODE
    """
    with reporting(as_json=json):
        from tpictl.commands.pairing import run_invite  # noqa: PLC0415

        run_invite(client_at(socket), role="user" if user else "helper", as_json=json)


@app.command()
def join(
    code: Annotated[list[str], typer.Argument(metavar="CODE", help="What `tpictl invite` shows on the other device.")],
    address: Annotated[
        str | None,
        typer.Option(metavar="HOST[:PORT]", help="Where the other device is. Default: it is found by mDNS."),
    ] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Join the home of the device that shows this code.

    \b
    Examples:
      tpictl join walnut-canyon-48213
      tpictl join walnut canyon 48213 --address 192.168.1.20
    """
    with reporting(as_json=json):
        from tpictl.commands.pairing import run_join  # noqa: PLC0415

        run_join(client_at(socket), " ".join(code), address=address, as_json=json)


devices_app = typer.Typer(
    help="List the devices of this home, or remove one.", invoke_without_command=True, rich_markup_mode=None
)
app.add_typer(devices_app, name="devices")


@devices_app.callback()
def devices(context: typer.Context, json: JsonOption = False, socket: SocketOption = None) -> None:
    """List the devices of this home, and what else is seen in the network.

    \b
    Examples:
      tpictl devices
      tpictl devices remove pi-2
    """
    if context.invoked_subcommand is not None:
        return
    with reporting(as_json=json):
        from tpictl.commands.devices import run_devices  # noqa: PLC0415

        run_devices(client_at(socket), as_json=json)


@devices_app.command()
def remove(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name or a fingerprint that `tpictl devices` lists.")],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Put a device out of this home, for ever: it has to be invited again as a new one.

    \b
    Example:
      tpictl devices remove pi-2
    """
    with reporting(as_json=json):
        from tpictl.commands.devices import run_remove  # noqa: PLC0415

        run_remove(client_at(socket), name, as_json=json)


@app.command()
def doctor(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Look for what stands between this device and its home, and tell what mends it. A fault: exit code 1.

    \b
    Example:
      tpictl doctor
    """
    with reporting(as_json=json):
        from tpictl.commands.doctor import run_doctor  # noqa: PLC0415

        run_doctor(client_at(socket), as_json=json)


@app.command()
def leave(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Take this device out of its home. It founds one of its own, and can join another.

    \b
    Example:
      tpictl leave
    """
    with reporting(as_json=json):
        from tpictl.commands.devices import run_leave  # noqa: PLC0415

        run_leave(client_at(socket), as_json=json)
