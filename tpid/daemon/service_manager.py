"""Telling systemd how far we are: sd_notify(3), for units of type notify. Does nothing without systemd."""

import contextlib
import os
import socket


def notify(state: str) -> None:
    """`state` is "READY=1", "STOPPING=1" or "STATUS=…"."""
    address = os.environ.get("NOTIFY_SOCKET")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
        channel.connect(address)
        channel.sendall(state.encode())
