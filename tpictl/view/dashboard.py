"""The state of the cluster on one screen."""

from collections.abc import Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tpictl.client.answers import Amount, Cluster, Fetching, Plan, Status, WeightUse
from tpictl.printable import printable_line
from tpictl.view.plan_table import columns_table, left_out_lines, plan_table, plan_title
from tpictl.view.quantities import format_duration, format_rate
from tpid.size import shown_size


def dashboard(status: Status) -> RenderableType:
    parts: list[RenderableType] = [_header(status), "", _device_table(status.cluster)]
    if status.plan is not None:
        parts += ["", plan_table(status.plan)]
        if any(use.streamed_bytes for use in status.weights.values()):
            parts += ["", _weights_table(status.plan, status.weights)]
    if notes := notes_of(status):
        parts += ["", *notes]
    return Group(*parts)


def _header(status: Status) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(overflow="fold")
    cluster = status.cluster
    table.add_row("cluster", Text(cluster.cluster, style="bold"))
    table.add_row("coordinator", _coordinator(cluster))
    table.add_row("model", _model(status))
    table.add_row("now", _activity(status))
    if status.last is not None:
        rate = f", {format_rate(status.last.tokens_s)}" if status.last.tokens_s is not None else ""
        table.add_row("last answer", f"TTFT {format_duration(status.last.ttft_s)}{rate}")
    table.add_row("discovery", _discovery(cluster))
    return table


def _coordinator(cluster: Cluster) -> Text:
    if cluster.coordinator is None:
        return Text("none", style="yellow")
    device = next((d for d in cluster.devices if d.profile.id == cluster.coordinator), None)
    name = device.profile.name if device is not None else cluster.coordinator[:8]
    mine = " (this device)" if device is not None and device.is_me else ""
    return Text(f"{name}{mine}, term {cluster.term}")


def _model(status: Status) -> Text:
    if status.plan is not None:
        return plan_title(status.plan)
    holding = status.holding
    if holding is not None:
        return Text(f"{holding.model}: rank {holding.rank} for {holding.coordinator}, {_held(holding.weights)}")
    return Text("none loaded", style="dim")


def _held(use: WeightUse) -> str:
    text = f"{shown_size(use.resident_bytes)} of weights"
    if not use.streamed_bytes:
        return text
    text += f" resident, {shown_size(use.streamed_bytes)} a token through a window of {shown_size(use.window_bytes)}"
    if use.disk_bytes_s is not None:
        text += f", disk {_bytes_rate(use.disk_bytes_s)}"
    return text if use.stall_s is None else f"{text}, stalls {format_duration(use.stall_s)} a token"


def _weights_table(plan: Plan, weights: Mapping[str, WeightUse]) -> Table:
    """Where the weights are, and what it costs that some stream."""
    table = columns_table()
    table.add_column("device", overflow="fold")
    for name in ("resident", "window", "a token streams", "disk", "stall a token"):
        table.add_column(name, justify="right")
    for rank in plan.ranks:
        use = weights.get(rank.device)
        if use is not None:
            table.add_row(
                Text(rank.name),
                shown_size(use.resident_bytes),
                shown_size(use.window_bytes) if use.window_bytes else "-",
                shown_size(use.streamed_bytes) if use.streamed_bytes else "-",
                _bytes_rate(use.disk_bytes_s) if use.disk_bytes_s is not None else "-",
                format_duration(use.stall_s) if use.stall_s is not None else "-",
            )
    return table


def _bytes_rate(bytes_s: float) -> str:
    return f"{shown_size(round(bytes_s))}/s"


def _activity(status: Status) -> Text:
    state = Text("busy", style="green") if status.busy else Text("idle")
    if status.waiting_requests:
        noun = "request waits" if status.waiting_requests == 1 else "requests wait"
        state.append(f", {status.waiting_requests} {noun}", style="yellow")
    return state.append(f", {shown_size(status.memory_bytes)} in memory")


def _discovery(cluster: Cluster) -> Text:
    text = Text(cluster.discovery, style="" if cluster.discovery.startswith("on") else "yellow")
    if cluster.n_other_clusters:
        text.append(f"; {_count(cluster.n_other_clusters, 'device')} of other homes")
    if cluster.n_unreadable:
        text.append(f"; {_count(cluster.n_unreadable, 'unreadable announcement')}")
    return text


def _device_table(cluster: Cluster) -> Table:
    table = columns_table()
    table.add_column("device", overflow="fold")
    table.add_column("role")
    table.add_column("threads", justify="right")
    table.add_column("budget", justify="right")
    table.add_column("RAM", justify="right")
    table.add_column("RTT", justify="right")
    table.add_column("address", overflow="fold")
    for device in cluster.devices:
        profile = device.profile
        name = Text(profile.name, style="bold" if device.coordinates else "")
        table.add_row(
            name.append(" (this)", style="dim") if device.is_me else name,
            Text(profile.role),
            str(profile.threads),
            shown_size(profile.budget_bytes),
            shown_size(profile.ram_bytes),
            format_duration(device.rtt_s) if device.rtt_s is not None else "-",
            Text(device.address),
        )
    return table


def notes_of(status: Status) -> list[Text]:
    """What is not as it could be, one line each."""
    cluster, plan = status.cluster, status.plan
    notes = _fetch_notes(status)
    if plan is not None:
        notes += left_out_lines(plan)
        known = {rank.device for rank in plan.ranks} | {entry.device for entry in plan.left_out}
        late = [device for device in cluster.devices if device.profile.id not in known]
        notes += [
            Text(f"{device.profile.name} came after the plan was made: it joins the next one.") for device in late
        ]
    me = next((device for device in cluster.devices if device.is_me), None)
    if me is not None and me.coordinates:
        elsewhere = [device for device in cluster.devices if not device.granted]
        notes += [
            Text(f"{device.profile.name} has not given its lease to this device yet.", style="yellow")
            for device in elsewhere
        ]
    for failed in cluster.failed:
        who = f"{failed.name} at {failed.address}" if failed.name else failed.address
        notes.append(Text(f"{who} is not connected: {failed.reason}", style="red"))
    failed_addresses = {failed.address for failed in cluster.failed}
    for sighted in cluster.sighted:
        if sighted.address not in failed_addresses:
            notes.append(Text(f"{sighted.name} at {sighted.address} was seen and is not connected yet.", style="dim"))
    return notes


def _fetch_notes(status: Status) -> list[Text]:
    """Units that come from other devices, here or for the plan that is being loaded."""
    notes = [
        Text(f"{printable_line(name)} gets its share from other devices: {_amount(amount)}.")
        for name, amount in status.fetches.items()
    ]
    fetching = status.fetching
    if fetching is not None:
        sources = ", ".join(fetching.sources) or "nobody now"
        notes.append(Text(f"This device gets its share from {sources}: {_amount(fetching)}."))
        notes += [
            Text(f"Nothing is asked of {printable_line(name)} for a while: {reason}", style="yellow")
            for name, reason in fetching.avoided.items()
        ]
    return notes


def _amount(amount: Amount | Fetching) -> str:
    return f"{shown_size(amount.done_bytes)} of {shown_size(amount.total_bytes)}"


def _count(number: int, noun: str) -> str:
    return f"1 {noun}" if number == 1 else f"{number} {noun}s"
