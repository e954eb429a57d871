"""From a connected socket to a TLS channel, and the word that lets the dialler in.

In TLS 1.3 the dialler is done before the listener has seen its certificate: a refusal comes later, as an alert or as
the bare end of the stream, where it looks like a device that has gone. So the listener's first byte says whether it
admits the dialler, and the dialler says nothing before it.

listener's answer                     the dialler raises
------------------------------------  -------------------------------------------------
ADMITTED                              nothing: the channel is up
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
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from tpid.comm.tls_channel import TlsChannel
from tpid.errors import DeviceLostError, NotPairedError, RemoteProtocolError, TpidError

ADMITTED: Final = b"\x01"
NOT_ADMITTED: Final = b"\x00"

_RECEIVE_BYTES: Final = 32 * 1024
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


async def dial_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    is_admitted: Callable[[bytes | None], bool],
    peer_address: str,
    timeout_s: float,
) -> TlsChannel:
    """Take over the connected, non-blocking `sock`: it is closed where this raises, or is cancelled.

    `is_admitted` gets the listener's certificate in DER. Raises NotPairedError, whoever of both does not know the
    other, DeviceLostError, RemoteProtocolError.
    """
    opening = _Opening(sock, context, listens=False, peer_address=peer_address)

    async def enter() -> None:
        if not is_admitted(opening.peer_certificate):
            raise _unknown_to_us(peer_address)
        if await opening.receive_word() != ADMITTED:
            raise _unknown_to_peer(peer_address)

    return await opening.run(enter, timeout_s)


async def answer_tls(
    sock: socket.socket,
    context: ssl.SSLContext,
    *,
    is_admitted: Callable[[bytes | None], bool],
    peer_address: str,
    timeout_s: float,
) -> TlsChannel:
    """The listener's side of `dial_tls`, with the same errors. `is_admitted` gets the dialler's certificate, None
    where the context asks for none."""
    opening = _Opening(sock, context, listens=True, peer_address=peer_address)

    async def let_in() -> None:
        if not is_admitted(opening.peer_certificate):
            await opening.send(NOT_ADMITTED)
            raise _unknown_to_us(peer_address)
        await opening.send(ADMITTED)

    return await opening.run(let_in, timeout_s)


class _Opening:
    """TLS in memory, and the socket that its bytes come from and go to."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, listens: bool, peer_address: str) -> None:
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=listens)
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._peer_address = peer_address
        self._received_bytes = 0

    @property
    def peer_certificate(self) -> bytes | None:
        return self._tls.getpeercert(binary_form=True)

    async def run(self, admit: Callable[[], Awaitable[None]], timeout_s: float) -> TlsChannel:
        """The handshake, then `admit`, both within `timeout_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._until_done(self._tls.do_handshake)
                await admit()
            return TlsChannel(self._sock, self._tls, self._incoming, self._outgoing)
        except BaseException as error:
            self._sock.close()
            if isinstance(error, TimeoutError):
                raise DeviceLostError(
                    f"The device at {self._peer_address} did not finish its TLS handshake within {timeout_s:g} s."
                ) from None
            if isinstance(error, OSError):
                raise DeviceLostError(
                    f"The connection to {self._peer_address} broke in the TLS handshake: {error}."
                ) from error
            raise

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
