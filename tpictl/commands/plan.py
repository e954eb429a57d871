"""`tpictl plan`: what a model would take and how fast it would be, without loading it."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tpictl.client.answers import Bottleneck, Preview
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.outcome import print_json
from tpictl.view.plan_table import columns_table, left_out_lines
from tpictl.view.quantities import format_duration, format_rate
from tpictl.view.terminal import stdout_console
from tpid.size import shown_size

PLAN = "/tpid/plan"


def run_plan(client: Client, model: str, *, memory: str | None, context_tokens: int | None, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.post(PLAN, {"model": model, "memory": memory, "context_tokens": context_tokens})
    if as_json:
        print_json(answer)
    else:
        stdout_console().print(plan_view(decode(Preview, answer)))


def plan_view(preview: Preview) -> RenderableType:
    plan, forecast = preview.plan, preview.forecast
    n_devices = "1 device" if len(plan.ranks) == 1 else f"{len(plan.ranks)} devices"
    title = f"{plan.model} on {n_devices}, context {plan.context_tokens} tokens, passes of {plan.max_pass_tokens}"
    times = Table.grid(padding=(0, 2))
    times.add_column(style="dim")
    times.add_column(overflow="fold")
    rate = format_rate(1 / forecast.tpot_s) if forecast.tpot_s > 0 else "-"
    times.add_row("TPOT", f"{format_duration(forecast.tpot_s)} ({rate}), limited by {_limit(forecast.tpot_limit)}")
    prompt = f"for a prompt of {forecast.prompt_tokens} tokens"
    times.add_row(
        "TTFT",
        f"{format_duration(forecast.ttft_s)} {prompt}{_walks(preview)}, limited by {_limit(forecast.ttft_limit)}",
    )
    notes = [*left_out_lines(plan), Text("Predicted from what the devices have measured; nothing is loaded.", "dim")]
    return Group(Text(title), "", _ranks(preview), "", times, "", *notes)


def _ranks(preview: Preview) -> Table:
    """What each rank reads from disk for a token, and what it holds: all but the first adds up to the memory."""
    table = columns_table()
    table.add_column("rank", justify="right")
    table.add_column("device", overflow="fold")
    for name in ("streams", "resident", "window", "KV cache", "buffers", "daemon", "memory"):
        table.add_column(name, justify="right")
    for number, rank in enumerate(preview.forecast.ranks):
        table.add_row(
            str(number),
            Text(rank.name),
            shown_size(rank.streamed_bytes) if rank.streamed_bytes else "-",
            shown_size(rank.resident_bytes),
            shown_size(rank.window_bytes) if rank.window_bytes else "-",
            shown_size(rank.kv_bytes),
            shown_size(rank.activation_bytes),
            shown_size(rank.base_bytes),
            f"{shown_size(rank.memory_bytes)} of {shown_size(rank.budget_bytes)}",
        )
    return table


def _walks(preview: Preview) -> str:
    if not any(rank.streamed_bytes for rank in preview.forecast.ranks):
        return ""
    walks = preview.forecast.walks
    return " in one walk over the disk" if walks == 1 else f" in {walks} walks over the disk"


def _limit(bottleneck: Bottleneck) -> str:
    if bottleneck.device is None:
        return "the network"
    what = "cores" if bottleneck.limit == "compute" else bottleneck.limit
    return f"the {what} of {bottleneck.device}"
