"""What a stream speaks through: the socket itself, or TLS over it. Both in the same words.

`send` and `receive_into` never block: they raise BlockingIOError where nothing can go or nothing has come, and another
OSError where the connection has broken.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol, TypeAlias

Buffer: TypeAlias = bytes | bytearray | memoryview


class Channel(Protocol):
    """A connected, non-blocking socket, and what its bytes mean."""

    @property
    def sock(self) -> socket.socket:
        """To be watched for readiness and to be closed, and for nothing else."""
        ...

    @property
    def unsent_bytes(self) -> int:
        """Of what `send` has taken; `send` without pieces sends them."""
        ...

    @property
    def holds_more(self) -> bool:
        """Whether `receive_into` has something that the socket does not show any more."""
        ...

    @property
    def send(self) -> Callable[[Iterable[Buffer]], int]:
        """Take the pieces' first bytes, as many as go; their number. What was taken may change afterwards."""
        ...

    @property
    def receive_into(self) -> Callable[[memoryview], int]:
        """Fill the buffer as far as it goes; the number of bytes, 0 at the peer's orderly end."""
        ...

    def end_writing(self) -> bool:
        """Tell the peer that nothing more comes; reading goes on. Called when nothing is unsent, and before an orderly
        close as well.

        False where the socket was full: to be called again when `unsent_bytes` are sent.
        """
        ...


def make_prompt(sock: socket.socket) -> None:
    """Non-blocking, and what is written leaves at once."""
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def make_unpaced(sock: socket.socket) -> None:
    """Before it connects or listens: afterwards the system's default has begun to pace, and does not end.

    BBR, the default of some systems, takes the few packets that an exchange sends a round trip for what the path can
    carry, and spreads the next ones over as much time.
    """
    for algorithm in (b"cubic", b"reno"):  # the first may be missing, or kept from users
        with suppress(OSError, AttributeError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_CONGESTION, algorithm)
            return


class PlainChannel:
    """The socket itself: for loopback. Its methods are the socket's own, so the seam costs nothing."""

    unsent_bytes: Final = 0
    holds_more: Final = False

    def __init__(self, sock: socket.socket) -> None:
        make_prompt(sock)
        self.sock: Final = sock
        self.send: Final[Callable[[Iterable[Buffer]], int]] = sock.sendmsg
        self.receive_into: Final[Callable[[memoryview], int]] = sock.recv_into

    def end_writing(self) -> bool:
        self.sock.shutdown(socket.SHUT_WR)
        return True
