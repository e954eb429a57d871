"""`tpictl show`, `cp` and `rm`: one model that is on this device."""

import sys

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tpictl.client.answers import Removed, Shown
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.outcome import print_json
from tpictl.printable import printable_line, printable_text
from tpictl.view.terminal import stdout_console
from tpid.errors import ModelNotFoundError
from tpid.size import shown_size


def run_show(client: Client, model: str, *, template: bool, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.post("/tpid/models/show", {"model": model})
    if as_json:
        print_json(answer)
        return
    shown = decode(Shown, answer)
    if not template:
        stdout_console().print(show_view(shown))
    elif shown.chat_template is None:
        raise ModelNotFoundError(f"{model} has no chat template.", hint="It continues texts: /v1/completions.")
    else:
        text = shown.chat_template
        print(printable_text(text) if sys.stdout.isatty() else text)


def run_copy(client: Client, model: str, name: str, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.post("/tpid/models/copy", {"model": model, "name": name})
    if as_json:
        print_json(answer)
    else:
        print(f"{name} is the same as {model}. Talk to it: tpictl chat {name}")


def run_remove_model(client: Client, model: str, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.post("/tpid/models/remove", {"model": model})
    if as_json:
        print_json(answer)
    else:
        print(f"{printable_line(model)} is gone: {shown_size(decode(Removed, answer).freed_bytes)} are free again.")


def show_view(shown: Shown) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    rows = {
        "model": shown.name,
        "id": shown.id[:12],
        "source": shown.source or "imported from a file",
        "architecture": shown.architecture,
        "weights": f"{_billions(shown.parameters)}, in {', '.join(shown.formats)}",
        "size": shown_size(shown.size_bytes),
        "layers": f"{shown.layers} of width {shown.hidden_size}",
        "heads": f"{shown.heads}, {shown.kv_heads} of them with keys and values",
        "context": f"{shown.context_tokens} tokens",
        "vocabulary": f"{shown.vocabulary} tokens",
        "sampling": ", ".join(f"{name} {value:g}" for name, value in shown.sampling.items())
        or "its publisher says nothing",
        "chat template": "yes" if shown.chat_template is not None else "none: it continues texts",
    }
    for name, value in rows.items():
        table.add_row(name, Text(value))
    return table


def _billions(parameters: int) -> str:
    return f"{parameters / 1e9:.2f} billion" if parameters >= 10**9 else f"{parameters / 1e6:.0f} million"
