"""`tpictl`: the commands and their options. Each command's work is imported when it runs, for a fast start."""

import os
import sys
from enum import StrEnum
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated

import typer

from tpictl.client import Client
from tpictl.outcome import open_standard_streams, reporting
from tpictl.paths import socket_path
from tpid import __version__

app = typer.Typer(
    name="tpictl",
    help="Talk to the large language models that your devices serve together.",
    epilog="Begin with: tpictl pull smollm2-135m, then tpictl chat",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class WeightFormat(StrEnum):
    """As tpid.model.weights has them, which tpictl must not import."""

    W4 = "w4"
    W4S = "w4s"
    W8 = "w8"
    F16 = "f16"
    BF16 = "bf16"


SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket", metavar="PATH", help="The daemon's socket. Default: $TPID_SOCKET, else where tpid puts it."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
FormatOption = Annotated[
    WeightFormat | None, typer.Option("--format", help="Store the weights in this format. Default: the source's own.")
]
ReplaceOption = Annotated[bool, typer.Option("--replace", help="Take the place of a model that has this name.")]


def main() -> None:
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no error
    app()


def _print_version(wanted: bool) -> None:
    if wanted:
        with reporting(as_json=False):
            print(f"tpictl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    pass


@app.command()
def chat(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Default: the only one on this device.", show_default=False)
    ] = None,
    *,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="System message: how the model shall answer.")
    ] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k likeliest tokens; 0: from all.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Sample from the likeliest tokens that make up p.")] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Drop tokens less likely than this fraction of the likeliest.")
    ] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1: repeat less.")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same answer.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer. Default: what the context holds.")] = None,
    stop: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="End the answer before TEXT; may be repeated.")
    ] = None,
    stats: Annotated[
        bool | None,
        typer.Option(
            "--stats/--no-stats",
            help="Print the plan and the times on stderr. Default: on a terminal, not in a pipe.",
            show_default=False,
        ),
    ] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Chat with a model; from a pipe, answer what is on standard input.

    \b
    Examples:
      tpictl chat smollm2-135m --temperature 0.2
      echo "Why is the sky blue?" | tpictl chat --stats
    """
    with reporting(as_json=json):
        from tpictl.chat import ChatOptions, run_chat  # noqa: PLC0415
        from tpictl.sampling import Sampling  # noqa: PLC0415

        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, tuple(stop or ()))
        run_chat(_client(socket), ChatOptions(model, system, sampling, stats, json))


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="Look again each second, until Ctrl-C.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Show the devices, who computes what, and who is missing and why.

    \b
    Example:
      tpictl status --watch
    """
    with reporting(as_json=json):
        from tpictl.status import run_status  # noqa: PLC0415

        run_status(_client(socket), watch=watch, as_json=json)


@app.command()
def bench(
    model: Annotated[
        str | None, typer.Argument(metavar="MODEL", help="Default: the only one on this device.", show_default=False)
    ] = None,
    *,
    prompt_tokens: Annotated[int, typer.Option("--prompt", metavar="N", min=1, help="Tokens of each prompt.")] = 512,
    answer_tokens: Annotated[int, typer.Option("--answer", metavar="N", min=2, help="Tokens of each answer.")] = 64,
    runs: Annotated[int, typer.Option(metavar="N", min=1, help="Answers that are measured.")] = 5,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Measure how fast your devices answer together: first token, prefill, decode.

    \b
    Example:
      tpictl bench smollm2-135m --prompt 256 --answer 128
    """
    with reporting(as_json=json):
        from tpictl.bench import BenchOptions, run_bench  # noqa: PLC0415

        run_bench(_client(socket), BenchOptions(model, prompt_tokens, answer_tokens, runs, json))


@app.command()
def models(json: JsonOption = False, socket: SocketOption = None) -> None:
    """List the models on this device, and those that can be pulled.

    \b
    Example:
      tpictl models
    """
    with reporting(as_json=json):
        from tpictl.models import run_models  # noqa: PLC0415

        run_models(_client(socket), as_json=json)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name that `tpictl models` lists.")],
    format: FormatOption = None,
    replace: ReplaceOption = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Fetch a model of the catalogue onto this device.

    \b
    Example:
      tpictl pull smollm2-135m
    """
    with reporting(as_json=json):
        from tpictl.importing import run_pull  # noqa: PLC0415

        run_pull(_client(socket), name, format=format, replace=replace, as_json=json)


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
        from tpictl.importing import run_import  # noqa: PLC0415

        run_import(_client(socket), path, name=name, format=format, replace=replace, as_json=json)


@app.command()
def plan(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model on this device.")],
    *,
    memory: Annotated[
        str | None, typer.Option(metavar="SIZE", help="As if this device's budget were SIZE, such as 2G or 800M.")
    ] = None,
    context: Annotated[
        int | None, typer.Option(metavar="TOKENS", help="As if the longest context were TOKENS.")
    ] = None,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Tell what a model would take: what stays in memory, what streams, how fast, and what limits it. Loads nothing.

    \b
    Example:
      tpictl plan smollm2-135m --memory 400M
    """
    with reporting(as_json=json):
        from tpictl.plan import run_plan  # noqa: PLC0415

        run_plan(_client(socket), model, memory=memory, context_tokens=context, as_json=json)


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
        from tpictl.verify import run_verify  # noqa: PLC0415

        run_verify(_client(socket), pack, as_json=json)


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
        from tpictl.pairing import run_invite  # noqa: PLC0415

        run_invite(_client(socket), role="user" if user else "helper", as_json=json)


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
        from tpictl.pairing import run_join  # noqa: PLC0415

        run_join(_client(socket), " ".join(code), address=address, as_json=json)


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
        from tpictl.devices import run_devices  # noqa: PLC0415

        run_devices(_client(socket), as_json=json)


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
        from tpictl.devices import run_remove  # noqa: PLC0415

        run_remove(_client(socket), name, as_json=json)


@app.command()
def doctor(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Look for what stands between this device and its home, and tell what mends it. A fault: exit code 1.

    \b
    Example:
      tpictl doctor
    """
    with reporting(as_json=json):
        from tpictl.doctor import run_doctor  # noqa: PLC0415

        run_doctor(_client(socket), as_json=json)


@app.command()
def leave(json: JsonOption = False, socket: SocketOption = None) -> None:
    """Take this device out of its home. It founds one of its own, and can join another.

    \b
    Example:
      tpictl leave
    """
    with reporting(as_json=json):
        from tpictl.devices import run_leave  # noqa: PLC0415

        run_leave(_client(socket), as_json=json)


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
        from tpictl.keys import run_create  # noqa: PLC0415

        run_create(_client(socket), name, as_json=json)


@key_app.command("list")
def key_list(json: JsonOption = False, socket: SocketOption = None) -> None:
    """List the keys by name; they themselves are not kept.

    \b
    Example:
      tpictl key list
    """
    with reporting(as_json=json):
        from tpictl.keys import run_list  # noqa: PLC0415

        run_list(_client(socket), as_json=json)


@key_app.command("revoke")
def key_revoke(name: KeyName, json: JsonOption = False, socket: SocketOption = None) -> None:
    """Make a key useless, at once.

    \b
    Example:
      tpictl key revoke phone
    """
    with reporting(as_json=json):
        from tpictl.keys import run_revoke  # noqa: PLC0415

        run_revoke(_client(socket), name, as_json=json)


def _client(socket: Path | None) -> Client:
    return Client(socket_path(socket, os.environ))


if __name__ == "__main__":
    main()
