"""A channel on which the messages of a pairing come and go."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from tpid.cluster.pairing.messages import PairingMessage, PairingReader, encode_pairing
from tpid.comm.stream import Stream
from tpid.comm.tls_channel import TlsChannel
from tpid.errors import TpidError

_RECEIVE_BYTES: Final = 16 * 1024
_CLOSE_S: Final = 2.0  # for what is unsent to go out, and for the peer to close as well


class PairingLine:
    """`on_message` gets each message; once None: what came was none, or the other side has ended the line.

    Neither is called any more once this side has closed it.
    """

    def __init__(self, channel: TlsChannel, on_message: Callable[[PairingMessage | TpidError | None], None]) -> None:
        """Takes over the channel."""
        self._on_message = on_message
        self._reader = PairingReader()
        self._buffer = memoryview(bytearray(_RECEIVE_BYTES))
        self._closing = False
        self._gone = asyncio.Event()
        self._stream = Stream(channel, self, write_pause_bytes=2**20)
        self._stream.start()

    def send(self, message: PairingMessage) -> None:
        self._stream.write(encode_pairing(message))

    def close(self) -> None:
        """When all is sent; cut after a while."""
        if self._closing:
            return
        self._closing = True
        self._stream.end_writing()
        asyncio.get_running_loop().call_later(_CLOSE_S, self._stream.abort)

    async def closed(self) -> None:
        """Until it is gone."""
        await self._gone.wait()

    # What the stream calls

    def get_buffer(self) -> memoryview:
        return self._buffer

    def buffer_updated(self, n_bytes: int) -> None:
        if self._closing:
            return
        try:
            messages = self._reader.feed(bytes(self._buffer[:n_bytes]))
        except TpidError as error:
            self._on_message(error)
            return
        for message in messages:
            if not self._closing:
                self._on_message(message)

    def eof_received(self) -> None:
        pass  # `connection_lost` follows

    def connection_lost(self, error: OSError | None) -> None:
        self._gone.set()
        if not self._closing:
            self._closing = True
            self._on_message(None)

    def pause_writing(self) -> None:
        pass  # a few messages of some hundred bytes

    def resume_writing(self) -> None:
        pass
