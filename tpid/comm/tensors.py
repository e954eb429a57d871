"""The headers of START, PARTIAL, SUM and PEER_PARTIAL, as the arrays that stand on the wire.

START                         [term, pass, wire dtype, [[slot, start, n_tokens], …]]
PARTIAL, SUM, PEER_PARTIAL    [term, pass, step, n_tokens, wire dtype]

Wire dtypes are numbers here: 0 fp32, 1 bf16, 2 int8. Decoding is total: anything that is not such an array
raises RemoteProtocolError.
"""

from dataclasses import dataclass
from typing import Final

from tpid.comm.messages import Kind
from tpid.comm.wire_dtype import WireDtype
from tpid.errors import RemoteProtocolError
from tpid.model.batch import Segment

MAX_SEGMENTS: Final = 4096
_MAX_COUNTER: Final = 2**63  # of terms and passes
_MAX_INDEX: Final = 2**31  # of slots, positions, tokens and steps

_WIRE_NUMBERS: Final = {WireDtype.FP32: 0, WireDtype.BF16: 1, WireDtype.INT8: 2}
_WIRE_DTYPES: Final = (WireDtype.FP32, WireDtype.BF16, WireDtype.INT8)


@dataclass(frozen=True, slots=True)
class StartHeader:
    """A pass begins; the payload is the embedded rows of all segments, one after the other."""

    term: int
    pass_id: int
    segments: tuple[Segment, ...]
    wire_dtype: WireDtype

    @property
    def n_tokens(self) -> int:
        return sum(segment.n_tokens for segment in self.segments)

    def to_wire(self) -> tuple[object, ...]:
        segments = [(segment.slot, segment.start, segment.n_tokens) for segment in self.segments]
        return self.term, self.pass_id, _WIRE_NUMBERS[self.wire_dtype], segments


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """One rank's partial, or the sum of all."""

    term: int
    pass_id: int
    step: int  # index of the allreduce in its pass: 2 * layer after attention, 2 * layer + 1 after the FFN
    n_tokens: int  # 0: all values are zero and there is no payload
    wire_dtype: WireDtype

    def to_wire(self) -> tuple[int, int, int, int, int]:
        return self.term, self.pass_id, self.step, self.n_tokens, _WIRE_NUMBERS[self.wire_dtype]


def tensor_header(kind: Kind, fields: object) -> StartHeader | TensorHeader:
    """The header that `fields`, fresh from the wire, stand for. Raises RemoteProtocolError."""
    if type(fields) is not list:
        raise RemoteProtocolError(f"A {kind.name} header is a {type(fields).__name__}, not an array.")
    return _start_header(fields) if kind is Kind.START else _partial_or_sum_header(kind, fields)


def _start_header(fields: list[object]) -> StartHeader:
    if len(fields) != 4:
        raise RemoteProtocolError(f"A START header has {len(fields)} fields instead of 4.")
    term, pass_id, wire_number, rows = fields
    if type(rows) is not list or not 1 <= len(rows) <= MAX_SEGMENTS:
        raise RemoteProtocolError(f"A START header has no list of 1 to {MAX_SEGMENTS} segments.")
    segments = tuple(_segment(row) for row in rows)
    if sum(segment.n_tokens for segment in segments) >= _MAX_INDEX:
        raise RemoteProtocolError(f"A START header announces {_MAX_INDEX} tokens or more.")
    return StartHeader(
        _integer(term, "term", _MAX_COUNTER),
        _integer(pass_id, "pass", _MAX_COUNTER),
        segments,
        _WIRE_DTYPES[_integer(wire_number, "wire dtype", len(_WIRE_DTYPES))],
    )


def _segment(row: object) -> Segment:
    if type(row) is not list or len(row) != 3:
        raise RemoteProtocolError("A segment of a START header is not an array of 3 numbers.")
    slot, start, n_tokens = row
    segment = Segment(
        _integer(slot, "slot", _MAX_INDEX),
        _integer(start, "start", _MAX_INDEX),
        _integer(n_tokens, "n_tokens", _MAX_INDEX),
    )
    if segment.n_tokens == 0 or segment.start + segment.n_tokens > _MAX_INDEX:
        raise RemoteProtocolError(f"A segment has {segment.n_tokens} tokens at position {segment.start}.")
    return segment


def _partial_or_sum_header(kind: Kind, fields: list[object]) -> TensorHeader:
    if len(fields) != 5:
        raise RemoteProtocolError(f"A {kind.name} header has {len(fields)} fields instead of 5.")
    term, pass_id, step, n_tokens, wire_number = fields
    if (
        type(term) is type(pass_id) is type(step) is type(n_tokens) is type(wire_number) is int
        and 0 <= term < _MAX_COUNTER
        and 0 <= pass_id < _MAX_COUNTER
        and 0 <= step < _MAX_INDEX
        and 0 <= n_tokens < _MAX_INDEX
        and 0 <= wire_number < len(_WIRE_DTYPES)
    ):  # the usual case without five calls: this is in the way of each allreduce
        return TensorHeader(term, pass_id, step, n_tokens, _WIRE_DTYPES[wire_number])
    return TensorHeader(
        _integer(term, "term", _MAX_COUNTER),
        _integer(pass_id, "pass", _MAX_COUNTER),
        _integer(step, "step", _MAX_INDEX),
        _integer(n_tokens, "n_tokens", _MAX_INDEX),
        _WIRE_DTYPES[_integer(wire_number, "wire dtype", len(_WIRE_DTYPES))],
    )


def _integer(value: object, name: str, end: int) -> int:
    # The exact type: True and 1.0 are not numbers of anything here.
    if type(value) is int and 0 <= value < end:
        return value
    raise RemoteProtocolError(f"The field {name!r} of a tensor header is not a number from 0 to {end - 1}.")
