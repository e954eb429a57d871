"""Commands about one model that is here: look at it, give it a second name, let it go."""

from typing import Annotated

import typer

from tpictl.cli.options import JsonOption, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()

StoredModel = Annotated[str, typer.Argument(metavar="MODEL", help="A model on this device.")]


@app.command()
def show(
    model: StoredModel,
    *,
    template: Annotated[bool, typer.Option("--template", help="Print its chat template and nothing else.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Show what a model is: its shape, formats, source, and how it is sampled from.

    \b
    Examples:
      tpictl show smollm2-135m
      tpictl show smollm2-135m --template
    """
    with reporting(as_json=json):
        from tpictl.commands.stored import run_show  # noqa: PLC0415

        run_show(client_at(socket), model, template=template, as_json=json)


@app.command()
def cp(
    model: StoredModel,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The second name.")],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Give a model a second name. Weights are shared where the disk can; the sampling is its own.

    \b
    Example:
      tpictl cp smollm2-135m assistant
    """
    with reporting(as_json=json):
        from tpictl.commands.stored import run_copy  # noqa: PLC0415

        run_copy(client_at(socket), model, name, as_json=json)


@app.command()
def rm(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="A model on this device, or what an interrupted pull was asked for.")
    ],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Remove a model from this device, and free its place on the disk.

    \b
    Examples:
      tpictl rm smollm2-135m
      tpictl rm hf.co/OWNER/REPO:Q4_K_M       what an interrupted pull has left
    """
    with reporting(as_json=json):
        from tpictl.commands.stored import run_remove_model  # noqa: PLC0415

        run_remove_model(client_at(socket), model, as_json=json)
