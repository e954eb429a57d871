"""Commands about the models on this device."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tpictl.cli.options import JsonOption, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()


class WeightFormat(StrEnum):
    """As tpid.model.weights has them, which tpictl must not import."""

    W4 = "w4"
    W4S = "w4s"
    W8 = "w8"
    F16 = "f16"
    BF16 = "bf16"


FormatOption = Annotated[
    WeightFormat | None, typer.Option("--format", help="Store the weights in this format. Default: the source's own.")
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Take the place of a model that has this name.")]


@app.command()
def models(json: JsonOption = False, socket: SocketOption = None) -> None:
    """List the models on this device, and those that can be pulled.

    \b
    Example:
      tpictl models
    """
    with reporting(as_json=json):
        from tpictl.commands.models import run_models  # noqa: PLC0415

        run_models(client_at(socket), as_json=json)


@app.command()
def pull(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A name that `tpictl models` lists, hf.co/OWNER/REPO[:QUANT], or a URL."),
    ],
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it. Default: as published.")] = None,
    format: FormatOption = None,
    replace: ReplaceOption = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Fetch a model onto this device. Ctrl-C ends it; the same command goes on from there.

    \b
    Examples:
      tpictl pull smollm2-135m
      tpictl pull hf.co/bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M
    """
    with reporting(as_json=json):
        from tpictl.commands.importing import run_pull  # noqa: PLC0415

        run_pull(client_at(socket), model, name=name, format=format, replace=replace, as_json=json)


@app.command("import")
def import_(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A GGUF file or a Hugging Face directory.")],
    *,
    name: Annotated[str | None, typer.Option(metavar="NAME", help="What to call it. Default: from the path.")] = None,
    format: FormatOption = None,
    replace: ReplaceOption = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Import a model from a file or directory on this device.

    \b
    Example:
      tpictl import ~/Downloads/Llama-3.2-1B-Instruct.Q4_K_M.gguf --name llama-1b
    """
    with reporting(as_json=json):
        from tpictl.commands.importing import run_import  # noqa: PLC0415

        run_import(client_at(socket), path, name=name, format=format, replace=replace, as_json=json)


@app.command()
def verify(
    *,
    pack: Annotated[str, typer.Option(metavar="MODEL", help="Compare each unit of this model with its digest.")],
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Check that a model on this device is what was imported, byte by byte. Ctrl-C ends it.

    \b
    Example:
      tpictl verify --pack smollm2-135m
    """
    with reporting(as_json=json):
        from tpictl.commands.verify import run_verify  # noqa: PLC0415

        run_verify(client_at(socket), pack, as_json=json)
