"""A peer's bytes as frames: cut anyhow, they give the same frames and the same error."""

from dataclasses import dataclass, field

from tests.fuzz.stretch import stretched
from tpid.comm.frames import FrameReader, Header
from tpid.comm.messages import Kind
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.errors import RemoteProtocolError, VersionMismatchError

MAX_PAYLOAD_BYTES = 1 << 20


@dataclass
class _Sink:
    skips: bool  # payloads of odd terms
    frames: list[tuple[Kind, Header, bytes | None]] = field(default_factory=list)

    def payload_buffer(self, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int) -> memoryview | None:
        assert size_bytes <= MAX_PAYLOAD_BYTES
        return None if self.skips and header.term % 2 else memoryview(bytearray(size_bytes))

    def frame_received(self, kind: Kind, header: Header, payload: memoryview | None) -> None:
        self.frames.append((kind, header, None if payload is None else bytes(payload)))


def fuzz(data: bytes) -> None:
    if not data:
        return
    flags, stream = data[0], stretched(data[1:])
    whole, error = _read(stream, flags, len(stream))
    pieces, other_error = _read(stream, flags, max(1, flags >> 2, len(stream) // 200))
    assert repr(whole) == repr(pieces)  # repr: NaN is not equal to itself
    assert error == other_error


def _read(stream: bytes, flags: int, piece_bytes: int) -> tuple[list[object], str]:
    sink = _Sink(skips=bool(flags & 1))
    reader = FrameReader(sink, peer_address="127.0.0.1:7", max_payload_bytes=MAX_PAYLOAD_BYTES)
    reader.opening = bool(flags & 2)
    try:
        for start in range(0, len(stream), max(piece_bytes, 1)):
            _feed(reader, stream[start : start + piece_bytes])
    except (RemoteProtocolError, VersionMismatchError) as error:
        return list(sink.frames), str(error)
    return list(sink.frames), ""


def _feed(reader: FrameReader, data: bytes) -> None:
    while data:
        buffer = reader.get_buffer()
        n_bytes = min(len(buffer), len(data))
        assert n_bytes > 0
        buffer[:n_bytes] = data[:n_bytes]
        reader.buffer_updated(n_bytes)
        data = data[n_bytes:]
