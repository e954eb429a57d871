"""The heads of one kind of tensor frame in one pass: they differ in the step only, so msgpack runs once a pass."""

from dataclasses import replace
from typing import Final

from tpid.comm.frames import encode_number, encode_tensor_head
from tpid.comm.messages import Kind
from tpid.comm.tensors import TensorHeader

_N_KEPT: Final = 512  # the steps of 256 layers
_NUMBERS: Final = tuple(encode_number(step) for step in range(_N_KEPT))


class Heads:
    """Of the PARTIAL or SUM frames of a pass, from prefix to header: `heads(step)`."""

    __slots__ = ("_back_bytes", "_first", "_kind", "_parts", "_payload_bytes")

    def __init__(self, kind: Kind, first: TensorHeader, payload_bytes: int) -> None:
        """`first` is the header of any step; all payloads have `payload_bytes`."""
        self._kind = kind
        self._first = first
        self._payload_bytes = payload_bytes
        *_, n_tokens, wire_number = first.to_wire()
        self._back_bytes = len(encode_number(n_tokens)) + len(encode_number(wire_number))
        self._parts: dict[int, tuple[bytes, bytes]] = {}  # before and behind the step, by the bytes that it takes

    def __call__(self, step: int) -> bytes:
        number = _NUMBERS[step] if step < _N_KEPT else encode_number(step)
        parts = self._parts.get(len(number))
        if parts is None:
            parts = self._parts[len(number)] = self._around(step, len(number))
        return parts[0] + number + parts[1]

    def _around(self, step: int, number_bytes: int) -> tuple[bytes, bytes]:
        head = encode_tensor_head(self._kind, replace(self._first, step=step), self._payload_bytes)
        back = len(head) - self._back_bytes
        return head[: back - number_bytes], head[back:]
