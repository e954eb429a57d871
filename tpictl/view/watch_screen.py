"""The dashboard: a row a device, the request at work, tokens a second, and what has happened."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from tpictl.client.answers import DeviceEvent, Stage, Status
from tpictl.view.dashboard import notes_of
from tpictl.view.gauges import bar, sparkline
from tpictl.view.plan_table import columns_table
from tpictl.view.progress_lines import lost_line, stage_line
from tpictl.view.quantities import format_age, format_duration, format_rate
from tpictl.view.watch_rows import Row, rows_of
from tpid.size import shown_size

_BAR_COLUMNS: Final = 10
_HISTORY: Final = 30  # values
_SHOWN_EVENTS: Final = 6
# Columns that come with so many columns of screen; the others are always there.
_WIDTHS: Final = {"share": 52, "memory": 66, "streams": 100, "disk": 110, "RTT": 74, "load": 80}
_COLOURS: Final = {
    **{"lost": "red", "sits out": "yellow", "left out": "yellow"},
    **{"coordinates": "green", "computes": "green"},
}


@dataclass(frozen=True, slots=True)
class WatchState:
    """What the screen shows beside the daemon's own state."""

    clock: str  # the time of day
    now_s: float  # Unix time of the daemon, as far as it can be known
    stale_s: float = 0.0  # since the daemon has answered; 0 while it does
    trouble: str | None = None  # why it does not
    rates: tuple[float, ...] = ()  # tokens a second, of late
    sort: str = "name"
    paused: bool = False
    numbers: Mapping[str, str] = field(default_factory=dict)  # by which digit a device is chosen, by id
    bottom: str = ""  # a question or an answer; else the keys


def watch_screen(status: Status, state: WatchState, columns: int, lines: int | None = None) -> RenderableType:
    """On a screen of so many `columns` and `lines`, or however long it gets."""
    rows = rows_of(status, state.sort)
    parts: list[RenderableType] = [
        _head(status, state),
        "",
        device_table(rows, state, columns),
        "",
        _work(status, state),
        *_rates(status, state, columns),
    ]
    if status.events:
        parts += ["", _events(status.events[-_SHOWN_EVENTS:], state)]
    if notes := notes_of(status):
        parts += ["", *notes]
    return _Fitted(Group(*parts, ""), bottom_line(state), lines)


@dataclass(frozen=True, slots=True)
class _Fitted:
    """A body of which the end goes where the screen is too low, and a bottom that is always seen."""

    body: RenderableType
    bottom: RenderableType
    lines: int | None

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        bottom = console.render_lines(self.bottom, options, pad=False)
        body = console.render_lines(self.body, options, pad=False)
        if self.lines is not None:
            body = body[: max(self.lines - len(bottom), 0)]
        for line in (*body, *bottom):
            yield from line
            yield Segment.line()


def bottom_line(state: WatchState) -> Text:
    if state.bottom:
        return Text(state.bottom, style="bold")
    pause = "p go on" if state.paused else "p pause"
    return Text(f"q quit · {pause} · s sort: {state.sort} · x remove a device", style="dim")


def trouble_line(state: WatchState) -> Text:
    why = state.trouble or "the daemon does not answer."
    return Text(f"stale for {format_age(state.stale_s)}: {why}", style="bold red")


def device_table(rows: Sequence[Row], state: WatchState, columns: int) -> Table:
    shown = [name for name, least in _WIDTHS.items() if columns >= least]
    table = columns_table()
    if state.numbers:
        table.add_column("", justify="right")
    table.add_column("device", overflow="fold")
    table.add_column("state", no_wrap=True)
    for name in shown:
        table.add_column(name, justify="left" if name == "share" else "right", no_wrap=True)
    for row in rows:
        cells = [_name(row), _state(row, state), *(_cell(row, name) for name in shown)]
        table.add_row(*([state.numbers.get(row.id, "")] if state.numbers else []), *cells)
    return table


def _head(status: Status, state: WatchState) -> Text:
    model = status.plan.model if status.plan is not None else status.holding.model if status.holding else "no model"
    text = Text(f"{state.clock}  ", style="bold")
    text.append(f"home {status.cluster.cluster} · {model} · {shown_size(status.memory_bytes)} here", style="")
    if state.paused:
        text.append("  paused", style="bold yellow")
    if state.stale_s:
        text.append("\n").append_text(trouble_line(state))
    return text


def _name(row: Row) -> Text:
    name = Text(row.name, style="dim" if row.is_lost else "")
    return name.append(" (this)", style="dim") if row.is_me else name


def _state(row: Row, state: WatchState) -> Text:
    age = f" {format_age(state.now_s - row.since_s)}" if row.since_s is not None else ""
    return Text(row.state + age, style=_COLOURS.get(row.state, ""))


def _cell(row: Row, column: str) -> Text:
    use, text = row.weights, ""
    match column:
        case "share" if row.share is not None:
            text = f"{bar(row.share, _BAR_COLUMNS)} {row.share:.0%}"
        case "memory" if use is not None:
            text = shown_size(use.resident_bytes)
        case "streams" if use is not None and use.streamed_bytes:
            text = f"{shown_size(use.streamed_bytes)}/token"
        case "disk" if use is not None and use.disk_bytes_s is not None:
            text = f"{shown_size(round(use.disk_bytes_s))}/s"
        case "RTT" if row.rtt_s is not None:
            text = format_duration(row.rtt_s)
        case "load" if row.load is not None:
            text = f"{row.load:.0%}"
    return Text(text)


def _work(status: Status, state: WatchState) -> Text:
    work = status.work
    if work is None:
        text = Text("idle", style="dim")
    else:
        text = Text(f"{_stage(work)} · {work.model} · {format_age(state.now_s - work.came_s)}")
    if status.waiting_requests:
        waits = "1 more waits" if status.waiting_requests == 1 else f"{status.waiting_requests} more wait"
        text.append(f" · {waits}", style="yellow")
    return text


def _stage(work: Stage) -> str:
    return f"{stage_line(work)}, {work.tokens} tokens" if work.stage == "decode" else stage_line(work)


def _rates(status: Status, state: WatchState, columns: int) -> list[Text]:
    lines = []
    if state.rates:
        history = sparkline(state.rates[-min(_HISTORY, max(columns - 14, 1)) :])
        lines.append(Text(f"{format_rate(state.rates[-1]):<12} ").append(history, style="cyan"))
    if status.last is not None:
        rate = f", {format_rate(status.last.tokens_s)}" if status.last.tokens_s is not None else ""
        lines.append(Text(f"last answer: TTFT {format_duration(status.last.ttft_s)}{rate}", style="dim"))
    return lines


def _events(events: Sequence[DeviceEvent], state: WatchState) -> Table:
    """The newest first."""
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right", style="dim", no_wrap=True)
    table.add_column(overflow="fold")
    for event in reversed(events):
        style = "" if event.kind in ("joined", "recovered") else "red"
        table.add_row(f"{format_age(state.now_s - event.time_s)} ago", Text(_happened(event), style=style))
    return table


def _happened(event: DeviceEvent) -> str:
    match event.kind:
        case "joined":
            return f"{event.device} joined"
        case "lost":
            return lost_line(event)
        case "recovered":
            return f"the answer goes on with {event.device}"
    return event.reason
