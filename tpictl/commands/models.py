"""`tpictl models`: what is on this device, and what can be had."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tpictl.client.answers import CatalogueModel, Model, Models
from tpictl.client.calls import MODELS
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.outcome import print_json
from tpictl.printable import printable_line
from tpictl.view.plan_table import columns_table
from tpictl.view.terminal import stdout_console
from tpid.size import shown_size


def run_models(client: Client, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.get(MODELS)
    if as_json:
        print_json(answer)
    else:
        stdout_console().print(models_view(decode(Models, answer)))


def models_view(models: Models) -> RenderableType:
    here = {model.name for model in models.models}
    sound = [model for model in models.models if model.damaged is None]
    parts: list[RenderableType] = [_packs(sound) if sound else Text("No model is on this device yet.")]
    for model in models.models:
        if model.damaged is not None:
            parts.append(Text(f"{model.name} is damaged: {model.damaged}", style="red"))
    others = {name: entry for name, entry in models.catalogue.items() if name not in here}
    if others:
        parts += [Text(""), _catalogue(others)]
        parts.append(Text("Sizes and memory are about so much. Others: tpictl pull hf.co/OWNER/REPO[:QUANT]", "dim"))
    if models.default in others:
        parts.append(Text(f"For this home, to begin with: tpictl pull {printable_line(models.default)}"))
    return Group(*parts)


def _catalogue(entries: dict[str, CatalogueModel]) -> Table:
    table = columns_table()
    table.add_column("to pull", overflow="fold")
    table.add_column("what it is", overflow="fold")
    table.add_column("quant")
    table.add_column("size", justify="right")
    table.add_column("memory", justify="right")
    table.add_column("licence", overflow="fold")
    for name, entry in entries.items():
        table.add_row(
            Text(printable_line(name)),
            Text(entry.about),
            Text(entry.quantization),
            shown_size(entry.size_bytes),
            shown_size(entry.memory_bytes) if entry.memory_bytes else "-",
            Text(entry.licence),
        )
    return table


def _packs(packs: list[Model]) -> Table:
    table = columns_table()
    table.add_column("name", overflow="fold")
    table.add_column("architecture")
    table.add_column("layers", justify="right")
    table.add_column("formats")
    table.add_column("size", justify="right")
    table.add_column("context", justify="right")
    for pack in packs:
        table.add_row(
            Text(pack.name),
            Text(pack.architecture),
            str(pack.layers),
            Text(", ".join(pack.formats)),
            shown_size(pack.size_bytes),
            str(pack.context_tokens),
        )
    return table
