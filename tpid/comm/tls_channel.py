"""TLS over a socket, after its handshake: bytes in and out, the socket watched by whoever owns the channel.

TLS works on memory here, not on the socket: so one system call takes in many records, and one sends the frame's head
and its payload. What was received and not yet asked for waits in `holds_more`, which no poll of the socket shows.
"""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Final, cast

from tpid.comm.channel import Buffer, make_prompt

RECORD_BYTES: Final = 16 * 1024  # of plain text at most: what TLS encrypts, and checks, as one
_RECEIVE_BYTES: Final = 64 * 1024  # in one system call
_SEAL_BYTES: Final = 64 * 1024  # encrypted before the socket is tried; twice as much can wait for it, no more


class TlsChannel:
    """Made by `tpid.comm.tls_handshake`, which takes over the socket and gives the TLS that is up."""

    def __init__(
        self, sock: socket.socket, tls: ssl.SSLObject, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO
    ) -> None:
        """`tls` reads encrypted bytes from `incoming` and writes them to `outgoing`; its handshake is done."""
        make_prompt(sock)
        self.sock: Final = sock
        self.holds_more = incoming.pending > 0 or tls.pending() > 0
        self._tls = tls
        self._read_into = cast(Callable[[int, memoryview], int], tls.read)  # typed for bytearrays alone
        self._incoming = incoming
        self._outgoing = outgoing
        self._scratch = memoryview(bytearray(_RECEIVE_BYTES))
        self._early = memoryview(b"")  # decrypted when this side ended its half, not yet asked for
        self._sealed: memoryview | None = None  # encrypted, not yet sent
        self._end_said = False
        self._socket_ended = False

    @property
    def peer_certificate(self) -> bytes | None:
        """In DER; None where the peer showed none."""
        return self._tls.getpeercert(binary_form=True)

    @property
    def unsent_bytes(self) -> int:
        return 0 if self._sealed is None else len(self._sealed)

    def send(self, pieces: Iterable[Buffer]) -> int:
        if self._sealed is not None and not self._send_sealed():
            raise BlockingIOError
        pieces = tuple(pieces)
        taken = sum(map(len, pieces))
        if not taken:
            return 0
        if taken <= RECORD_BYTES:
            self._tls.write(b"".join(pieces))
            self._send_outgoing()
            return taken
        taken = 0
        for portion in _portions(pieces):
            self._tls.write(portion)
            taken += len(portion)
            if self._outgoing.pending >= _SEAL_BYTES and not self._send_outgoing():
                return taken
        if self._outgoing.pending:
            self._send_outgoing()
        return taken

    def receive_into(self, buffer: memoryview) -> int:
        if self.holds_more:
            if self._early:
                return self._take_early(buffer)
            if (n_bytes := self._decrypt(buffer)) is not None:
                return n_bytes
        n_received = self.sock.recv_into(self._scratch)
        if n_received:
            self._incoming.write(self._scratch[:n_received])
        else:
            self._socket_ended = True
        n_bytes = self._decrypt(buffer)
        if n_bytes is not None:
            return n_bytes
        if self._socket_ended:
            raise ConnectionAbortedError("the encrypted stream was cut off")
        raise BlockingIOError  # no record is whole yet

    def end_writing(self) -> bool:
        """TLS's own end, then the socket's."""
        self._say_end()
        if self._sealed is not None:
            return False
        self.sock.shutdown(socket.SHUT_WR)
        return True

    def _decrypt(self, buffer: memoryview) -> int | None:
        """Fill `buffer` from what is here: the number of bytes, 0 at the end; None where no record is whole."""
        filled = 0
        ended = False
        try:
            while filled < len(buffer) and not ended:
                n_bytes = self._read_into(len(buffer) - filled, buffer[filled:])
                filled += n_bytes
                ended = n_bytes == 0
                if not self._incoming.pending and not self._tls.pending():
                    break  # quicker than an exception
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # the end, where this side has ended its own half before
            ended = True
        except ssl.SSLError:
            if self._sealed is None:
                with suppress(OSError):
                    self._send_outgoing()  # the alert that says what is wrong
            raise
        self.holds_more = filled > 0 and (filled == len(buffer) or ended or self._socket_ended)
        if self._outgoing.pending and self._sealed is None:
            self._send_outgoing()  # TLS's own: an answer to new keys
        return filled if filled or ended else None

    def _send_outgoing(self) -> bool:
        """Whether all of it has gone."""
        sealed = self._outgoing.read()
        try:
            sent = self.sock.send(sealed)
        except (BlockingIOError, InterruptedError):
            sent = 0
        if sent < len(sealed):
            self._sealed = memoryview(sealed)[sent:]
        return self._sealed is None

    def _send_sealed(self) -> bool:
        """Whether all of it has gone."""
        sealed = cast(memoryview, self._sealed)
        try:
            sent = self.sock.send(sealed)
        except (BlockingIOError, InterruptedError):
            return False
        self._sealed = sealed[sent:] if sent < len(sealed) else None
        return self._sealed is None

    def _say_end(self) -> None:
        """Put TLS's close_notify on its way, once.

        OpenSSL would look for the peer's as well and choke on data that comes before it: so all is taken aside.
        """
        if self._end_said or self._sealed is not None:
            return
        self._end_said = True
        if n_bytes := self._tls.pending():
            self._early = memoryview(bytes(self._early) + self._tls.read(n_bytes))
            self.holds_more = True
        encrypted = self._incoming.read()
        with suppress(ssl.SSLWantReadError):
            self._tls.unwrap()
        if encrypted:
            self._incoming.write(encrypted)
        if self._outgoing.pending:
            self._send_outgoing()

    def _take_early(self, buffer: memoryview) -> int:
        n_bytes = min(len(buffer), len(self._early))
        buffer[:n_bytes] = self._early[:n_bytes]
        self._early = self._early[n_bytes:]
        self.holds_more = True
        return n_bytes


def _portions(pieces: Iterable[Buffer]) -> Iterator[Buffer]:
    """The pieces, in portions for one encryption each: what fits one record together, large ones cut."""
    together: list[Buffer] = []
    n_bytes = 0
    for piece in pieces:
        if n_bytes + len(piece) > RECORD_BYTES and together:
            yield b"".join(together)
            together, n_bytes = [], 0
        if len(piece) > RECORD_BYTES:
            view = memoryview(piece)
            for start in range(0, len(view), _SEAL_BYTES):
                yield view[start : start + _SEAL_BYTES]
        else:
            together.append(piece)
            n_bytes += len(piece)
    if len(together) == 1:
        yield together[0]
    elif together:
        yield b"".join(together)
