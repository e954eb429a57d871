"""The header of a frame of any kind: what is accepted goes out again as it came in."""

from tests.fuzz.stretch import stretched
from tpid.comm.frames import MAX_HEADER_BYTES, PREFIX, decode_header, encode_message, encode_tensor_head
from tpid.comm.messages import Kind, Message
from tpid.errors import RemoteProtocolError

_KINDS = {kind.value: kind for kind in Kind}


def fuzz(data: bytes) -> None:
    if not data:
        return
    kind, packed = _KINDS.get(data[0]), stretched(data[1:])[:MAX_HEADER_BYTES]
    if kind is None:
        return
    try:
        header = decode_header(kind, packed)
    except RemoteProtocolError as error:
        assert len(str(error)) < 10_000
        return
    if isinstance(header, Message):
        frame = encode_message(header) if len(packed) < MAX_HEADER_BYTES // 8 else b""
    else:
        frame = encode_tensor_head(kind, header, 0)
    if frame:
        assert repr(decode_header(kind, frame[PREFIX.size :])) == repr(header)
