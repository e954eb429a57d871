"""`tpictl ps`, `load` and `unload`: the model that your devices hold in memory."""

from dataclasses import dataclass

from rich.console import Group, RenderableType
from rich.text import Text

from tpictl.client.answers import Holding, Plan, Status, Unloaded, WeightUse
from tpictl.client.calls import STATUS, load_model, plan_of
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.outcome import print_json
from tpictl.view.plan_table import columns_table, left_out_lines, plan_table, plan_title
from tpictl.view.progress_bars import StageBars
from tpictl.view.terminal import stderr_console, stdout_console
from tpid.size import shown_size


def run_ps(client: Client, *, as_json: bool) -> None:
    """Raises TpidError."""
    status = decode(Status, client.get(STATUS))
    if as_json:
        print_json({"loaded": [row.as_json() for row in _rows(status)], "busy": status.busy})
    else:
        stdout_console().print(ps_view(status))


def run_load(client: Client, model: str, *, as_json: bool) -> None:
    """Raises TpidError."""
    with StageBars(stderr_console(), keep=False) as bars:
        answer = load_model(client, model, bars.show)
    if as_json:
        print_json({"plan": answer})
        return
    plan = plan_of(answer)
    stdout_console().print(Group(plan_title(plan), plan_table(plan), *left_out_lines(plan)))


def run_unload(client: Client, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.post("/tpid/unload", {})
    if as_json:
        print_json(answer)
        return
    name = decode(Unloaded, answer).unloaded
    print(f"{name} is in no memory any more." if name is not None else "No model was loaded from here.")


def ps_view(status: Status) -> RenderableType:
    rows = _rows(status)
    if not rows:
        return Text("No model is loaded. The first request loads one, or tpictl load MODEL.")
    table = columns_table()
    for name in ("model", "device", "rank", "resident", "streams", "for"):
        table.add_column(name, justify="right" if name in ("rank", "resident", "streams") else "left", overflow="fold")
    for row in rows:
        streams = shown_size(row.use.streamed_bytes) if row.use is not None and row.use.streamed_bytes else "-"
        resident = shown_size(row.use.resident_bytes) if row.use is not None else "-"
        table.add_row(Text(row.model), Text(row.device), str(row.rank), resident, streams, Text(row.user))
    return table


@dataclass(frozen=True, slots=True)
class _Row:
    """A part of a model in one device's memory; `user` is the device whose requests it serves."""

    model: str
    device: str
    rank: int
    use: WeightUse | None
    user: str

    def as_json(self) -> dict[str, object]:
        use = self.use
        return {
            "model": self.model,
            "device": self.device,
            "rank": self.rank,
            "resident_bytes": use.resident_bytes if use is not None else None,
            "streamed_bytes": use.streamed_bytes if use is not None else None,
            "for": self.user,
        }


def _rows(status: Status) -> list[_Row]:
    """What this device coordinates, and what it holds for another one."""
    me = next((device.profile.name for device in status.cluster.devices if device.is_me), "this device")
    rows = _of_plan(status.plan, status, me) if status.plan is not None else []
    return rows + ([_of_holding(status.holding, me)] if status.holding is not None else [])


def _of_plan(plan: Plan, status: Status, me: str) -> list[_Row]:
    return [
        _Row(plan.model, rank.name, number, status.weights.get(rank.device), me)
        for number, rank in enumerate(plan.ranks)
    ]


def _of_holding(holding: Holding, me: str) -> _Row:
    return _Row(holding.model, me, holding.rank, holding.weights, holding.coordinator)
