"""Commands that let a model answer, and show who computes."""

from typing import Annotated

import typer

from tpictl.cli.options import JsonOption, ModelArgument, SocketOption, client_at
from tpictl.outcome import reporting

app = typer.Typer()


@app.command()
def chat(
    model: ModelArgument = None,
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
    goes_on: Annotated[bool, typer.Option("--continue", "-c", help="Go on with the chat that was kept last.")] = False,
    private: Annotated[bool, typer.Option("--private", help="Keep nothing of this chat, and nothing typed.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Chat with a model; from a pipe, answer what is on standard input.

    On a terminal it starts a daemon where none runs, and offers a model where there is none.

    \b
    Examples:
      tpictl chat smollm2-135m --temperature 0.2
      tpictl chat --continue
      echo "Why is the sky blue?" | tpictl chat --stats
    """
    with reporting(as_json=json):
        from tpictl.commands.chat import ChatOptions, run_chat  # noqa: PLC0415
        from tpictl.commands.first_start import ready  # noqa: PLC0415
        from tpictl.commands.sampling import Sampling  # noqa: PLC0415

        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed, max_tokens, tuple(stop or ()))
        client, model = ready(socket, model)
        run_chat(client, ChatOptions(model, system, sampling, stats, json, goes_on, private))


@app.command()
def status(
    watch: Annotated[bool, typer.Option("--watch", help="A dashboard to leave open; q leaves it.")] = False,
    json: JsonOption = False,
    socket: SocketOption = None,
) -> None:
    """Show the devices, who computes what, and who is missing and why.

    \b
    Example:
      tpictl status --watch
    """
    with reporting(as_json=json):
        from tpictl.commands.status import run_status  # noqa: PLC0415

        run_status(client_at(socket), watch=watch, as_json=json)


@app.command()
def bench(
    model: ModelArgument = None,
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
        from tpictl.commands.bench import BenchOptions, run_bench  # noqa: PLC0415

        run_bench(client_at(socket), BenchOptions(model, prompt_tokens, answer_tokens, runs, json))


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
        from tpictl.commands.plan import run_plan  # noqa: PLC0415

        run_plan(client_at(socket), model, memory=memory, context_tokens=context, as_json=json)
