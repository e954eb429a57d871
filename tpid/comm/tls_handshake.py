"""From a connected socket to a TLS channel: what it is for, the handshake, and the word that lets the dialler in.

In TLS 1.3 the dialler is done before the listener has seen its certificate: a refusal comes later, as an alert or as
the bare end of the stream, where it looks like a device that has gone. So the listener's first byte says whether it
admits the dialler, and the dialler says nothing before it.

listener's answer                     the dialler raises
------------------------------------  -------------------------------------------------
ADMITTED                              nothing: the channel is up
CLOSED in clear                       RefusedError; PairingError where the dialler wants to pair
an opening of another version         VersionMismatchError
an alert about the certificate        NotPairedError
NOT_ADMITTED                          NotPairedError
another alert                         RemoteProtocolError
end of the stream, reset              DeviceLostError
nothing for `timeout_s`               DeviceLostError
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, TypeVar

from tpid.comm.opening import OPENING_BYTES, Purpose, closed, decode_opening, encode_opening, refusal_in
from tpid.comm.tls_channel import TlsChannel
from tpid.comm.unreachable import words_of
from tpid.errors import (
    DeviceLostError,
    NotPairedError,
    RefusedError,
    RemoteProtocolError,
    TpidError,
    VersionMismatchError,
)

T = TypeVar("T")

ADMITTED: Final = b"\x01"
NOT_ADMITTED: Final = b"\x00"

_RECEIVE_BYTES: Final = 32 * 1024
_LINGER_S: Final = 1.0  # for a peer that is refused to take it in
_MAX_HANDSHAKE_BYTES: Final = 64 * 1024  # of a peer; a handshake with P-256 certificates takes 2 KiB
# What a TLS peer answers to a certificate that it does not accept: RFC 8446, 6.2.
_CERTIFICATE_ALERTS: Final = (
    "BAD_CERTIFICATE",
    "UNSUPPORTED_CERTIFICATE",
    "CERTIFICATE_REVOKED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "CERTIFICATE_REQUIRED",
    "UNKNOWN_CA",
    "ACCESS_DENIED",
)


@dataclass(frozen=True, slots=True)
class Door:
    """How TLS is spoken for one purpose. `is_admitted` gets the peer's certificate in DER, None where it shows none;
    it is asked when the handshake is done."""

    context: ssl.SSLContext
    is_admitted: Callable[[bytes | None], bool]


async def dial_tls(
    sock: socket.socket, purpose: Purpose, door: Door, *, peer_address: str, timeout_s: float
) -> TlsChannel:
    """Take over the connected, non-blocking `sock`: it is closed where this raises, or is cancelled.

    Raises NotPairedError, whoever of both does not know the other; PairingError where no invitation is open;
    RefusedError, VersionMismatchError, DeviceLostError, RemoteProtocolError.
    """
    opening = _Opening(sock, peer_address)

    async def enter() -> TlsChannel:
        await opening.shake_hands(door.context, dials_for=purpose)
        if not door.is_admitted(opening.peer_certificate):
            raise _unknown_to_us(peer_address)
        if await opening.receive_word() != ADMITTED:
            raise _unknown_to_peer(peer_address)
        return opening.channel()

    return await opening.run(enter, timeout_s)


async def answer_tls(
    sock: socket.socket, doors: Mapping[Purpose, Door], *, peer_address: str, timeout_s: float
) -> tuple[Purpose, TlsChannel]:
    """The listener's side of `dial_tls`, with the same errors. A purpose without a door is not possible now."""
    opening = _Opening(sock, peer_address)

    async def let_in() -> tuple[Purpose, TlsChannel]:
        try:
            purpose = decode_opening(await opening.receive_in_clear(OPENING_BYTES), peer_address=peer_address)
        except VersionMismatchError:
            await opening.refuse_in_clear()  # its version byte is what the other side understands
            raise
        door = doors.get(purpose)
        if door is None:
            await opening.refuse_in_clear()
            raise RefusedError(
                f"The device at {peer_address} asked for {purpose.name}, which is not possible now.",
                reason_code="closed",
            )
        await opening.shake_hands(door.context)
        if not door.is_admitted(opening.peer_certificate):
            await opening.send(NOT_ADMITTED)
            raise _unknown_to_us(peer_address)
        await opening.send(ADMITTED)
        return purpose, opening.channel()

    return await opening.run(let_in, timeout_s)


class _Opening:
    """TLS in memory, and the socket that its bytes come from and go to."""

    _tls: ssl.SSLObject  # from `shake_hands` on

    def __init__(self, sock: socket.socket, peer_address: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._peer_address = peer_address
        self._purpose: Purpose | None = None  # that the dialler has asked for; None at the listener
        self._received_bytes = 0

    @property
    def peer_certificate(self) -> bytes | None:
        return self._tls.getpeercert(binary_form=True)

    def channel(self) -> TlsChannel:
        return TlsChannel(self._sock, self._tls, self._incoming, self._outgoing)

    async def run(self, enter: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        """`enter`, within `timeout_s`; the socket is closed where it does not come to an end."""
        try:
            async with asyncio.timeout(timeout_s):
                return await enter()
        except BaseException as error:
            self._sock.close()
            if isinstance(error, TimeoutError):
                raise DeviceLostError(
                    f"The device at {self._peer_address} did not finish its TLS handshake within {timeout_s:g} s."
                ) from None
            if isinstance(error, OSError):
                raise DeviceLostError(
                    f"The connection to {self._peer_address} broke in the TLS handshake: {words_of(error)}.",
                    hint="Look whether tpid still runs there.",
                ) from error
            raise

    async def refuse_in_clear(self) -> None:
        """Send CLOSED, and read what is on its way: closing with bytes unread would reset the connection, and the peer
        might never see it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LINGER_S):
                await self._loop.sock_sendall(self._sock, closed())
                self._sock.shutdown(socket.SHUT_WR)
                n_bytes = 0
                while n_bytes < _MAX_HANDSHAKE_BYTES and (more := await self._loop.sock_recv(self._sock, 4096)):
                    n_bytes += len(more)

    async def receive_in_clear(self, n_bytes: int) -> bytes:
        """Exactly so many: what follows is TLS's."""
        data = b""
        while len(data) < n_bytes:
            more = await self._loop.sock_recv(self._sock, n_bytes - len(data))
            if not more:
                raise self._ended()
            data += more
        return data

    async def shake_hands(self, context: ssl.SSLContext, *, dials_for: Purpose | None = None) -> None:
        """As the dialler, who says what for in the same packet, or as the listener."""
        self._purpose = dials_for
        if dials_for is not None:
            self._outgoing.write(encode_opening(dials_for))  # before TLS's own first words
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=dials_for is None)
        await self._until_done(self._tls.do_handshake)

    async def send(self, data: bytes) -> None:
        self._tls.write(data)
        await self._send_outgoing()

    async def receive_word(self) -> bytes:
        word = b""

        def read() -> None:
            nonlocal word
            word = self._tls.read(1)

        await self._until_done(read)
        if not word:
            raise self._ended()
        return word

    async def _until_done(self, step: Callable[[], None]) -> None:
        """Feed TLS until `step` has what it needs."""
        while True:
            try:
                step()
            except ssl.SSLWantReadError:
                await self._send_outgoing()
                await self._receive()
            except ssl.SSLError as error:
                with suppress(OSError):
                    await self._send_outgoing()  # the alert: the peer shall know why
                raise self._explained(error) from error
            else:
                await self._send_outgoing()
                return

    async def _receive(self) -> None:
        data = await self._loop.sock_recv(self._sock, _RECEIVE_BYTES)
        if not data:
            raise self._ended()
        if self._purpose is not None and not self._received_bytes:
            while len(data) < OPENING_BYTES and (more := await self._loop.sock_recv(self._sock, _RECEIVE_BYTES)):
                data += more
            if (refusal := refusal_in(data, self._purpose, peer_address=self._peer_address)) is not None:
                raise refusal
        self._received_bytes += len(data)
        if self._received_bytes > _MAX_HANDSHAKE_BYTES:
            raise RemoteProtocolError(f"The device at {self._peer_address} sends a TLS handshake without end.")
        self._incoming.write(data)

    async def _send_outgoing(self) -> None:
        if self._outgoing.pending:
            await self._loop.sock_sendall(self._sock, self._outgoing.read())

    def _ended(self) -> DeviceLostError:
        return DeviceLostError(f"The device at {self._peer_address} ended the connection in the TLS handshake.")

    def _explained(self, error: ssl.SSLError) -> TpidError:
        if isinstance(error, ssl.SSLCertVerificationError):
            return _unknown_to_us(self._peer_address)
        reason = error.reason or str(error)
        if "ALERT" in reason and reason.endswith(_CERTIFICATE_ALERTS):
            return _unknown_to_peer(self._peer_address)
        if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
            return _unknown_to_us(self._peer_address)
        if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            return self._ended()
        return RemoteProtocolError(f"The TLS handshake with {self._peer_address} failed: {reason}.")


def _unknown_to_us(peer_address: str) -> NotPairedError:
    return NotPairedError(
        f"The device at {peer_address} does not belong to this home, or not any more.",
        hint="Pair it: `tpictl invite` here, `tpictl join CODE` there.",
    )


def _unknown_to_peer(peer_address: str) -> NotPairedError:
    return NotPairedError(
        f"The device at {peer_address} does not count this device to its home, or not any more.",
        hint="Pair this device: `tpictl invite` there, `tpictl join CODE` here.",
    )
