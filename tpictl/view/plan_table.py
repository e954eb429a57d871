"""The plan and the numbers of an answer, for people."""

from rich.table import Table
from rich.text import Text

from tpictl.client.answers import Plan, Timings, UnitRange, Usage
from tpictl.view.quantities import format_duration, format_rate
from tpid.size import shown_size


def plan_table(plan: Plan) -> Table:
    """Who computes which share."""
    table = columns_table()
    table.add_column("rank", justify="right")
    table.add_column("device", overflow="fold")
    table.add_column("KV groups")
    table.add_column("FFN units")
    table.add_column("memory", justify="right")
    for number, rank in enumerate(plan.ranks):
        table.add_row(
            str(number),
            Text(rank.name),
            units_of(rank.share.attn, plan.n_attn_units),
            units_of(rank.share.ffn, plan.n_ffn_units),
            shown_size(rank.memory_bytes),
        )
    return table


def plan_lines(plan: Plan) -> list[Text]:
    """The same where there is no room for a table."""
    return [
        Text(
            f"{rank.name}: KV groups {units_of(rank.share.attn, plan.n_attn_units)}, "
            f"FFN units {units_of(rank.share.ffn, plan.n_ffn_units)}, {shown_size(rank.memory_bytes)}"
        )
        for rank in plan.ranks
    ]


def columns_table() -> Table:
    """The look of all tables: no lines, headers that stand back."""
    return Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")


def plan_title(plan: Plan) -> Text:
    n_devices = "1 device" if len(plan.ranks) == 1 else f"{len(plan.ranks)} devices"
    return Text(
        f"{plan.model} on {n_devices}, context {plan.context_tokens} tokens, wire {plan.wire_dtype}, term {plan.term}"
    )


def left_out_lines(plan: Plan) -> list[Text]:
    return [Text(f"{entry.name} is left out: {entry.reason}", style="yellow") for entry in plan.left_out]


def units_of(units: UnitRange, total: int) -> str:
    """`2 of 3 (0-1)`"""
    if units.n_units <= 0:
        return f"0 of {total}"
    span = str(units.start) if units.n_units == 1 else f"{units.start}-{units.stop - 1}"
    return f"{units.n_units} of {total} ({span})"


def answer_line(usage: Usage, timings: Timings) -> str:
    """`TTFT 431 ms · TPOT 42 ms · 23.8 tok/s · 120 tokens · prompt 34 tokens (20 cached)`"""
    parts = [f"TTFT {format_duration(timings.ttft_s)}"]
    if timings.tpot_s is not None:
        parts.append(f"TPOT {format_duration(timings.tpot_s)}")
    if timings.tokens_s is not None:
        parts.append(format_rate(timings.tokens_s))
    parts.append(_tokens(usage.completion_tokens))
    parts.append(f"prompt {_tokens(usage.prompt_tokens)} ({usage.prompt_tokens_details.cached_tokens} cached)")
    return " · ".join(parts)


def _tokens(count: int) -> str:
    return "1 token" if count == 1 else f"{count} tokens"
