"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

from tpictl.client.connection import Client
from tpictl.paths import socket_path

SocketOption = Annotated[
    Path | None,
    typer.Option(
        "--socket", metavar="PATH", help="The daemon's socket. Default: $TPID_SOCKET, else where tpid puts it."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object, for scripts.")]
ModelArgument = Annotated[
    str | None, typer.Argument(metavar="MODEL", help="Default: the only one on this device.", show_default=False)
]


def client_at(socket: Path | None) -> Client:
    return Client(socket_path(socket, os.environ))
