"""Frames: bytes to messages and back, without a socket.

    magic "TP" | version u8 | kind u8 | header length u32 | payload length u32 | header | payload

All big endian. These 12 bytes stay as they are in every version, so that two versions can tell each other.
The header is msgpack: a map for control messages, an array for START, PARTIAL, SUM and PEER_PARTIAL. Only those
carry a payload. Decoding is total: any bytes give frames, or RemoteProtocolError (VersionMismatchError in the hello).
"""

import struct
from collections.abc import Callable
from typing import Final, NamedTuple, Protocol, TypeAlias

import msgpack  # type: ignore[import-untyped]
from pydantic import ValidationError

from tpid.comm.messages import CONTROL_MESSAGES, KIND_OF, PROTOCOL_VERSION, TENSOR_KINDS, Kind, Message
from tpid.comm.tensors import StartHeader, TensorHeader, tensor_header
from tpid.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError

MAGIC: Final = b"TP"
PREFIX: Final = struct.Struct(">2sBBII")
MAX_HEADER_BYTES: Final = 256 * 1024
MAX_OPENING_HEADER_BYTES: Final = 64 * 1024  # before the hello anyone may be there
# Most frames fit whole, head and all: one read a frame, and copying so little costs less than a second read.
STAGING_BYTES: Final = 33 * 1024

_OPENING_KINDS: Final = frozenset({Kind.HELLO, Kind.REFUSE, Kind.BYE})
_KINDS: Final = {int(kind): kind for kind in Kind}
# msgpack takes the memory for an array when it sees its length; headers nest up to its own limit of 1024 levels.
_MAX_ITEMS: Final = 8192

Header: TypeAlias = Message | StartHeader | TensorHeader


def encode_message(message: Message) -> bytes:
    """A whole frame. Raises LocalProtocolError where the message does not fit one."""
    try:
        header: bytes = msgpack.packb(message.model_dump())
    except (TypeError, ValueError, OverflowError) as error:
        raise LocalProtocolError(f"A {type(message).__name__} cannot be put into msgpack: {error}.") from error
    if len(header) > MAX_HEADER_BYTES:
        raise LocalProtocolError(
            f"A {type(message).__name__} of {len(header)} bytes is larger than a header may be, {MAX_HEADER_BYTES}."
        )
    return PREFIX.pack(MAGIC, PROTOCOL_VERSION, KIND_OF[type(message)], len(header), 0) + header


def encode_tensor_head(kind: Kind, header: StartHeader | TensorHeader, payload_bytes: int) -> bytes:
    """A tensor frame up to its payload."""
    packed: bytes = msgpack.packb(header.to_wire())
    return PREFIX.pack(MAGIC, PROTOCOL_VERSION, kind, len(packed), payload_bytes) + packed


def encode_number(number: int) -> bytes:
    """A field of a tensor header, 0 … 2**64 - 1, as it stands in the frame."""
    packed: bytes = msgpack.packb(number)
    return packed


def decode_header(kind: Kind, data: memoryview | bytes) -> Header:
    """Raises RemoteProtocolError."""
    try:
        fields = msgpack.unpackb(
            data, max_array_len=_MAX_ITEMS, max_map_len=_MAX_ITEMS, max_ext_len=0, strict_map_key=True
        )
    except (ValueError, RecursionError, OverflowError) as error:
        raise RemoteProtocolError(f"A {kind.name} header is not msgpack: {error}.") from error
    if kind in TENSOR_KINDS:
        return tensor_header(kind, fields)
    if type(fields) is not dict:
        raise RemoteProtocolError(f"A {kind.name} header is a {type(fields).__name__}, not a map.")
    try:
        return CONTROL_MESSAGES[kind].model_validate(fields)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(str(part)[:60] for part in first["loc"])
        raise RemoteProtocolError(f"A {kind.name} header has a wrong field {where!r}: {first['msg']}.") from None


class FrameSink(Protocol):
    """Where a reader delivers; an error raised here ends the reading and goes to whoever feeds the reader."""

    def payload_buffer(self, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int) -> memoryview | None:
        """The memory that the payload is written to, `size_bytes` or more; None to skip the whole frame."""
        ...

    def frame_received(self, kind: Kind, header: Header, payload: memoryview | None) -> None: ...


class ExpectedFrame(NamedTuple):
    """A tensor frame that is to come, known to the byte up to its payload. A tuple: two are made a step."""

    head: bytes
    payload: memoryview  # where its payload goes, exactly as long
    arrived: Callable[[bytes], None]  # the payload is complete; called with the very `head`


class FrameReader:
    """Turns received bytes into frames, in the manner of `asyncio.BufferedProtocol`.

    Prefix and header, and what came with them, are read into a staging buffer; the rest of a payload goes straight
    to the memory that the sink gave. Until `opening` is set to False only HELLO, REFUSE and BYE may come.
    """

    def __init__(self, sink: FrameSink, *, peer_address: str, max_payload_bytes: int) -> None:
        self.opening = True
        self.paused = False
        self.expected: ExpectedFrame | None = None  # the owner's; None once it has come
        self._sink = sink
        self._peer_address = peer_address
        self._max_payload_bytes = max_payload_bytes
        self._staging_bytes = bytearray(STAGING_BYTES)
        self._staging = memoryview(self._staging_bytes)
        self._start = 0  # staging[start:end] is received and not yet understood
        self._end = 0
        self._kind = Kind.BYE  # of the frame at hand, like the next three
        self._payload_bytes = 0
        self._header: StartHeader | TensorHeader | None = None  # None while the body is a large header
        self._body: memoryview | None = None
        self._body_filled = 0
        self._body_of: ExpectedFrame | None = None  # whose payload the body is
        self._skip_bytes = 0  # of a payload that nobody wants
        self._stopped = False

    @property
    def in_frame(self) -> bool:
        """Whether an end of the stream would cut a frame in two."""
        return self._start < self._end or self._body is not None or self._skip_bytes > 0

    def pause(self) -> None:
        """Deliver nothing after the frame at hand; the transport must not read either."""
        self.paused = True

    def resume(self) -> None:
        """Go on with the next `buffer_updated`; 0 bytes deliver what is here already."""
        self.paused = False

    def stop(self) -> None:
        """Deliver nothing any more: what still comes is thrown away."""
        self._stopped = True
        self.expected = self._body_of = None
        self._body = None
        self._skip_bytes = 0
        self._start = self._end = 0

    def get_buffer(self) -> memoryview:
        """Where to receive; never empty."""
        if self._body is not None:
            return self._body[self._body_filled :]
        if self._skip_bytes:
            return self._staging[: self._skip_bytes]
        if self._start:
            rest = self._end - self._start
            if rest:
                self._staging[:rest] = self._staging[self._start : self._end]
            self._start, self._end = 0, rest
        return self._staging[self._end :] if self._end else self._staging

    def buffer_updated(self, n_bytes: int) -> None:
        """`n_bytes` are in the buffer that `get_buffer` gave. Raises RemoteProtocolError, VersionMismatchError,
        and what the sink raises."""
        if self._stopped:
            return
        if self._body is not None:
            self._body_filled += n_bytes
            if self._body_filled == len(self._body):
                self._finish_body(self._body)
        elif self._skip_bytes:
            self._skip_bytes -= n_bytes
        else:
            self._end += n_bytes
            self._parse()

    def _parse(self) -> None:
        while not self.paused and self._body is None and not self._skip_bytes:
            n_bytes = self._end - self._start
            if n_bytes < PREFIX.size:
                return
            expected = self.expected
            if expected is not None and self._staging_bytes.startswith(expected.head, self._start, self._end):
                self._take_expected(expected)
                continue
            header_bytes = self._read_prefix()
            if PREFIX.size + header_bytes > STAGING_BYTES:
                self._start += PREFIX.size
                self._begin_large_header(header_bytes)
                return
            if n_bytes < PREFIX.size + header_bytes:
                return
            header_start = self._start + PREFIX.size
            self._start = header_start + header_bytes
            self._header_complete(decode_header(self._kind, self._staging[header_start : self._start]))

    def _take_expected(self, frame: ExpectedFrame) -> None:
        self.expected = None
        start = self._start + len(frame.head)
        payload = frame.payload
        here = min(len(payload), self._end - start)
        self._start = start + here
        if here == len(payload):
            payload[:] = self._staging[start : self._start]
            frame.arrived(frame.head)
        else:
            payload[:here] = self._staging[start : self._start]
            self._body, self._body_filled, self._body_of = payload, here, frame

    def _read_prefix(self) -> int:
        """Checks all that the prefix says; the size of the header that follows."""
        magic, version, number, header_bytes, payload_bytes = PREFIX.unpack_from(self._staging, self._start)
        if magic != MAGIC:
            raise RemoteProtocolError("What was sent is not a frame of tpid.")
        if version != PROTOCOL_VERSION:
            raise self._other_version(version)
        kind = _KINDS.get(number)
        if kind is None:
            raise RemoteProtocolError(f"There is no kind of frame with the number {number}.")
        if self.opening and kind not in _OPENING_KINDS:
            raise RemoteProtocolError(f"A {kind.name} frame came before the hello.")
        max_header_bytes = MAX_OPENING_HEADER_BYTES if self.opening else MAX_HEADER_BYTES
        if header_bytes > max_header_bytes:
            raise RemoteProtocolError(f"A header has {header_bytes} bytes, more than {max_header_bytes}.")
        if kind not in TENSOR_KINDS:
            if payload_bytes:
                raise RemoteProtocolError(f"A {kind.name} frame has a payload, of {payload_bytes} bytes.")
        elif payload_bytes > self._max_payload_bytes:
            raise RemoteProtocolError(f"A payload has {payload_bytes} bytes, more than {self._max_payload_bytes}.")
        self._kind = kind
        self._payload_bytes = int(payload_bytes)
        return int(header_bytes)

    def _other_version(self, version: int) -> VersionMismatchError | RemoteProtocolError:
        if not self.opening:
            return RemoteProtocolError(f"The version changed from {PROTOCOL_VERSION} to {version} in mid-stream.")
        where = "this device" if version > PROTOCOL_VERSION else "that device"
        return VersionMismatchError(
            f"The device at {self._peer_address} speaks version {version} of the protocol, "
            f"this device version {PROTOCOL_VERSION}.",
            hint=f"Upgrade tpid on {where}.",
        )

    def _header_complete(self, header: Header) -> None:
        if not isinstance(header, StartHeader | TensorHeader):
            self._sink.frame_received(self._kind, header, None)
        elif (header.n_tokens == 0) != (self._payload_bytes == 0):
            raise RemoteProtocolError(
                f"A {self._kind.name} of {header.n_tokens} tokens has {self._payload_bytes} bytes of payload."
            )
        elif self._payload_bytes:
            self._begin_payload(header)
        else:
            self._sink.frame_received(self._kind, header, None)

    def _begin_payload(self, header: StartHeader | TensorHeader) -> None:
        n_bytes = self._payload_bytes
        target = self._sink.payload_buffer(self._kind, header, n_bytes)
        if self._stopped:
            return
        here = min(n_bytes, self._end - self._start)
        if target is None:
            self._start += here
            self._skip_bytes = n_bytes - here
            return
        if len(target) < n_bytes:
            raise LocalProtocolError(f"A buffer of {len(target)} bytes was given for a payload of {n_bytes}.")
        payload = target[:n_bytes]
        payload[:here] = self._staging[self._start : self._start + here]
        self._start += here
        if here == n_bytes:
            self._sink.frame_received(self._kind, header, payload)
        else:
            self._header, self._body, self._body_filled = header, payload, here

    def _begin_large_header(self, n_bytes: int) -> None:
        body = memoryview(bytearray(n_bytes))
        here = self._end - self._start  # less than n_bytes, because they do not fit the staging buffer
        body[:here] = self._staging[self._start : self._end]
        self._start = self._end
        self._header, self._body, self._body_filled = None, body, here

    def _finish_body(self, body: memoryview) -> None:
        self._body = None
        if self._body_of is not None:
            frame, self._body_of = self._body_of, None
            frame.arrived(frame.head)
        elif self._header is None:
            self._header_complete(decode_header(self._kind, body))
        else:
            self._sink.frame_received(self._kind, self._header, body)
