"""Commands about the model that is loaded, and one answer of one."""

from typing import Annotated

import typer

from tpictl.cli.options import JsonOption, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()

StoredModel = Annotated[str, typer.Argument(metavar="MODEL", help="A model on this device.")]


@app.command()
def run(
    model: StoredModel,
    prompt: Annotated[
        list[str] | None, typer.Argument(metavar="PROMPT", help="Default: what is on standard input.")
    ] = None,
    *,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message: how the model shall answer.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer. Default: what the context holds.")] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Print one answer, and nothing else.

    \b
    Examples:
      tpictl run smollm2-135m "Why is the sky blue?"
      tpictl run smollm2-135m < question.txt
    """
    with reporting(as_json=json):
        from tpictl.commands.one_answer import run_once  # noqa: PLC0415
        from tpictl.commands.sampling import Sampling  # noqa: PLC0415

        sampling = Sampling(temperature=temperature, seed=seed, max_tokens=max_tokens)
        run_once(client_at(socket), model, " ".join(prompt or ()), system=system, sampling=sampling, as_json=json)


@app.command()
def ps(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Show which model is loaded, on which devices, and what it takes there.

    \b
    Example:
      tpictl ps
    """
    with reporting(as_json=json):
        from tpictl.commands.loaded import run_ps  # noqa: PLC0415

        run_ps(client_at(socket), as_json=json)


@app.command()
def load(model: StoredModel, json: JsonOption = False, socket: SocketOption = None) -> None:
    """Have a model ready on your devices, so that the first answer need not wait for it.

    \b
    Example:
      tpictl load smollm2-135m
    """
    with reporting(as_json=json):
        from tpictl.commands.loaded import run_load  # noqa: PLC0415

        run_load(client_at(socket), model, as_json=json)


@app.command()
def unload(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Free the memory that the loaded model takes, on all devices. The next request loads it again.

    \b
    Example:
      tpictl unload
    """
    with reporting(as_json=json):
        from tpictl.commands.loaded import run_unload  # noqa: PLC0415

        run_unload(client_at(socket), as_json=json)
