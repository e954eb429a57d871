"""`tpictl invite` and `tpictl join`: one code, read aloud from one screen and typed at another."""

import time
from collections.abc import Callable, Generator
from contextlib import closing
from typing import Any, Final, TypeVar

from rich.console import Console
from rich.status import Status

from tpictl.client.calls import DEVICES
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.client.home_answers import Devices, Found, Invited, Joined, Looking, Opened, Tried, Waiting
from tpictl.outcome import print_json
from tpictl.view.terminal import stderr_console, stdout_console
from tpid.errors import DaemonUnreachableError, TpidError

Lines = Generator[dict[str, Any], None, None]
T = TypeVar("T")

CONNECTED_TIMEOUT_S: Final = 20.0  # for the new member to meet its home
_POLL_S: Final = 0.2


def run_invite(client: Client, *, role: str, as_json: bool) -> None:
    """Raises TpidError, and KeyboardInterrupt, by which the invitation is over."""
    with closing(client.lines("/tpid/invite", {"role": role})) as lines:
        if as_json:
            _print_all(lines)
            return
        _follow(lines, _show_invitation)


def run_join(client: Client, code: str, *, address: str | None, as_json: bool) -> None:
    """Raises TpidError, and KeyboardInterrupt."""
    with closing(client.lines("/tpid/join", {"code": code, "address": address})) as lines:
        if as_json:
            _print_all(lines)
            return
        joined = _follow(lines, _show_joining)
    if joined is not None:
        _wait_connected(client, joined)


def _print_all(lines: Lines) -> None:
    for line in lines:
        print_json(line)


def _follow(lines: Lines, show: Callable[[dict[str, Any], Console, Status], T | None]) -> T | None:
    """What `show` gives for the last line."""
    console, result = stderr_console(), None
    with console.status("…") as status:
        for line in lines:
            result = show(line, console, status)
    return result


def _show_invitation(line: dict[str, Any], console: Console, status: Status) -> None:
    if "code" in line:
        opened = decode(Opened, line)
        out = stdout_console()
        out.print(f"\n  {opened.code}\n", style="bold", highlight=False, markup=False)
        what = "lets people type there" if opened.role == "user" else "helps this home compute"
        _say(console, f"On the device that joins, within {opened.valid_s / 60:g} minutes:")
        _say(console, f"  tpictl join {opened.code}")
        where = ", ".join(opened.addresses)
        _say(console, f"It then {what}. Where it does not find this device, add --address and one of: {where}")
        _say(console, f"This device is {opened.device.name}, fingerprint {opened.device.fingerprint}")
        status.update("Waiting for the other device … (Ctrl-C takes the code back)")
    elif "tried" in line:
        tried = decode(Tried, line["tried"])
        left = f"tries left: {tried.tries_left}" if tried.tries_left else "the invitation has ended"
        _say(console, f"A wrong code came from {tried.address}; {left}.")
    elif "invited" in line:
        invited = decode(Invited, line["invited"])
        out = stdout_console()
        _say(out, f"{invited.name} is in this home, as a {invited.role}.")
        _say(out, f"Its screen must show the same fingerprint: {invited.fingerprint}")
        if not invited.acknowledged:
            _say(console, "It has not said that it knows: if it says that it did not join, invite it once more.")


def _show_joining(line: dict[str, Any], console: Console, status: Status) -> Joined | None:
    if "looking" in line:
        looking = decode(Looking, line["looking"])
        seen = f" (seen, without an invitation: {', '.join(looking.seen)})" if looking.seen else ""
        status.update(f"Looking for the device that invites{seen} …")
    elif "found" in line:
        found = decode(Found, line["found"])
        _say(console, f"{found.name} at {found.address} invites.")
        status.update(f"Proving the code to {found.name} …")
    elif "waiting" in line:
        busy = decode(Waiting, line["waiting"])
        _say(console, f"{busy.name} is just pairing with another device; asking again until it is free.")
    elif "joined" in line:
        return decode(Joined, line["joined"])
    return None


def _wait_connected(client: Client, joined: Joined) -> None:
    """The daemon begins anew as a member; say so when it is one."""
    out, console = stdout_console(), stderr_console()
    _say(out, f"This device is in the home of {joined.inviter}, as {joined.name}, a {joined.role}.")
    _say(out, f"{joined.inviter}'s screen must show the same fingerprint: {joined.fingerprint}")
    deadline_s = time.monotonic() + CONNECTED_TIMEOUT_S
    with console.status(f"Meeting {joined.inviter} …"):
        while time.monotonic() < deadline_s:
            try:
                home = decode(Devices, client.get(DEVICES))
            except DaemonUnreachableError:
                home = None  # it is just beginning anew
            if home is not None and any(device.connected and not device.is_me for device in home.devices):
                names = ", ".join(device.name for device in home.devices if device.connected and not device.is_me)
                _say(out, f"Connected with {names}.")
                return
            time.sleep(_POLL_S)
    raise NotMetError(
        f"This device belongs to the home now, and has not reached {joined.inviter} within {CONNECTED_TIMEOUT_S:g} s.",
        hint="`tpictl doctor` tells what is in the way.",
    )


class NotMetError(TpidError):
    """The pairing is done, the connection is not."""

    code = "not_met"


def _say(console: Console, text: str) -> None:
    console.print(text, highlight=False, markup=False, soft_wrap=True)
