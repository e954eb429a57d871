"""`tpictl devices` and `tpictl leave`: who belongs to this home."""

import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from tpictl.client.calls import DEVICES, remove_device
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.client.home_answers import Devices, HomeDevice
from tpictl.outcome import print_json
from tpictl.view.plan_table import columns_table
from tpictl.view.terminal import stdout_console


def run_devices(client: Client, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.get(DEVICES)
    if as_json:
        print_json(answer)
    else:
        stdout_console().print(devices_view(decode(Devices, answer)))


def run_remove(client: Client, name: str, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = remove_device(client, name)
    if as_json:
        print_json(answer)
    else:
        print(f"{name} does not belong to this home any more. To take it in again: tpictl invite.")


def run_leave(client: Client, *, as_json: bool) -> None:
    """Raises TpidError."""
    answer = client.post("/tpid/leave", {})
    if as_json:
        print_json(answer)
    else:
        print("This device has left its home, and has one of its own. To join another: tpictl join CODE.")


def devices_view(home: Devices) -> RenderableType:
    table = columns_table()
    for name in ("name", "role", "state", "address", "fingerprint"):
        table.add_column(name, overflow="fold")
    table.add_column("round trip", justify="right")
    for device in home.devices:
        table.add_row(
            Text(device.name),
            device.role,
            _state(device),
            Text(device.addresses[0] if device.addresses else ""),
            device.short_fingerprint,
            f"{device.rtt_s * 1e3:.1f} ms" if device.rtt_s is not None else "",
        )
    parts: list[RenderableType] = [Text(f"Home {home.home}", style="bold"), table]
    if len(home.devices) == 1:
        parts.append(Text("This device is alone. To take another in: tpictl invite", style="dim"))
    parts += [
        Text(f"{stranger.name} at {stranger.address} is in this network, and of another home.", style="dim")
        for stranger in home.strangers
    ]
    return Group(*parts)


def _state(device: HomeDevice) -> Text:
    if device.is_me:
        return Text("this device", style="bold")
    if device.connected:
        return Text("connected", style="green")
    if device.last_seen is None:
        return Text("never seen", style="yellow")
    seen = datetime.datetime.fromtimestamp(device.last_seen).astimezone()
    return Text(f"last seen {seen:%Y-%m-%d %H:%M}", style="yellow")
