"""Telling systemd how far we are: sd_notify(3), for units of type notify. Does nothing without systemd."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Callable


def notify(state: str) -> None:
    """`state` is "READY=1", "STOPPING=1" or "STATUS=…"; several stand on lines of their own."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(state.encode())


def notify_reloading() -> None:
    """READY=1 comes when it is done."""
    notify(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")


def watchdog_interval_s() -> float | None:
    """How often systemd wants to hear of us, at the latest; None where it does not."""
    text, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not text.isdigit() or int(text) == 0 or (pid.isdigit() and int(pid) != os.getpid()):
        return None
    return int(text) / 1e6


async def keep_told(status: Callable[[], str], interval_s: float = 10.0) -> None:
    """Say until cancelled that the loop runs, and what the daemon does; returns at once without systemd."""
    if not os.environ.get("NOTIFY_SOCKET"):
        return
    watchdog_s = watchdog_interval_s()
    pause_s = interval_s if watchdog_s is None else min(interval_s, watchdog_s / 3)
    while True:
        text = status().replace("\n", " ")
        notify(f"STATUS={text}" + ("" if watchdog_s is None else "\nWATCHDOG=1"))
        await asyncio.sleep(pause_s)
