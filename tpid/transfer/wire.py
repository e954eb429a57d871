"""What is said on a connection for units: one side asks, the other answers in the order of the questions.

    prefix 12 bytes, as of frames | body | payload

kind  name     by      body                                   payload
----  -------  ------  -------------------------------------  ------------------------------
80    ASK      asker   pack id, what, layer, unit: 41 bytes   none
81    GIVEN    giver   none                                   what was asked for
82    LACKING  giver   none                                   none: it is not here
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from tpid.comm.messages import PROTOCOL_VERSION
from tpid.errors import RemoteProtocolError
from tpid.pack.geometry import Half
from tpid.pack.manifest import PackId
from tpid.pack.pieces import Piece

PREFIX: Final = struct.Struct(">2sBBII")
ASK: Final = 80
GIVEN: Final = 81
LACKING: Final = 82

_MAGIC: Final = b"TP"
_BODY: Final = struct.Struct(">32sBII")
ASK_BYTES: Final = PREFIX.size + _BODY.size


class What(IntEnum):
    """That may be asked for: nothing of the embedding, the head, the tokenizer or the template is among it."""

    MANIFEST = 0  # model.json
    PRESENCE = 1  # which units are there, as in presence.json
    VECTORS = 2  # a layer's norms and biases
    ATTN = 3  # a unit
    FFN = 4


@dataclass(frozen=True, slots=True)
class Question:
    pack: PackId
    what: What
    layer: int = 0
    unit: int = 0

    @property
    def piece(self) -> Piece | None:
        """None where it asks for something else."""
        match self.what:
            case What.VECTORS:
                return Piece(self.layer, None)
            case What.ATTN:
                return Piece(self.layer, Half.ATTN, self.unit)
            case What.FFN:
                return Piece(self.layer, Half.FFN, self.unit)
        return None


def question_for(pack: PackId, piece: Piece) -> Question:
    what = {None: What.VECTORS, Half.ATTN: What.ATTN, Half.FFN: What.FFN}[piece.half]
    return Question(pack, what, piece.layer, piece.unit)


def encode_question(question: Question) -> bytes:
    body = _BODY.pack(bytes.fromhex(question.pack), question.what, question.layer, question.unit)
    return PREFIX.pack(_MAGIC, PROTOCOL_VERSION, ASK, len(body), 0) + body


def decode_question(data: bytes) -> Question:
    """From exactly `ASK_BYTES`. Raises RemoteProtocolError."""
    if _prefix(data[: PREFIX.size]) != (ASK, _BODY.size, 0):
        raise RemoteProtocolError("What was sent is no question for units.")
    pack, what, layer, unit = _BODY.unpack_from(data, PREFIX.size)
    if what not in set(What):
        raise RemoteProtocolError(f"A device asked for something unknown, number {what}.")
    return Question(PackId(pack.hex()), What(what), layer, unit)


def encode_given(n_bytes: int) -> bytes:
    """What goes before the payload."""
    return PREFIX.pack(_MAGIC, PROTOCOL_VERSION, GIVEN, 0, n_bytes)


def encode_lacking() -> bytes:
    return PREFIX.pack(_MAGIC, PROTOCOL_VERSION, LACKING, 0, 0)


class QuestionReader:
    """Bytes in, whole questions out."""

    def __init__(self) -> None:
        self._data = b""

    def feed(self, data: bytes) -> list[Question]:
        """Raises RemoteProtocolError."""
        self._data += data
        questions = []
        while len(self._data) >= ASK_BYTES:
            questions.append(decode_question(self._data[:ASK_BYTES]))
            self._data = self._data[ASK_BYTES:]
        return questions


class AnswerReader:
    """Where the bytes of answers go; one that is larger than it may be is refused before memory is taken."""

    def __init__(self, most_bytes: Callable[[], int], answered: Callable[[bytearray | None], None]) -> None:
        """`most_bytes`: of the answer to the oldest open question, -1 where there is none. `answered` gets the
        payload, None where it is not there."""
        self._most_bytes = most_bytes
        self._answered = answered
        self._prefix = bytearray(PREFIX.size)
        self._body: bytearray | None = None
        self._filled = 0

    def get_buffer(self) -> memoryview:
        """Where to receive; never empty."""
        return memoryview(self._prefix if self._body is None else self._body)[self._filled :]

    def buffer_updated(self, n_bytes: int) -> None:
        """Raises RemoteProtocolError."""
        self._filled += n_bytes
        if self._body is None:
            if self._filled == PREFIX.size:
                self._begin()
        elif self._filled == len(self._body):
            body, self._body, self._filled = self._body, None, 0
            self._answered(body)

    def _begin(self) -> None:
        self._filled = 0
        kind, body_bytes, payload_bytes = _prefix(bytes(self._prefix))
        most_bytes = self._most_bytes()
        if kind not in (GIVEN, LACKING) or body_bytes or most_bytes < 0:
            raise RemoteProtocolError("What was sent answers no question for units.")
        if kind == LACKING:
            if payload_bytes:
                raise RemoteProtocolError("An answer that nothing is there has a payload.")
            self._answered(None)
        elif not 0 < payload_bytes <= most_bytes:
            raise RemoteProtocolError(f"An answer has {payload_bytes} bytes, {most_bytes} at most were asked for.")
        else:
            self._body = bytearray(payload_bytes)


def _prefix(data: bytes) -> tuple[int, int, int]:
    """Kind, bytes of the body and of the payload. Raises RemoteProtocolError."""
    magic, version, kind, body_bytes, payload_bytes = PREFIX.unpack(data)
    if magic != _MAGIC or version != PROTOCOL_VERSION:
        raise RemoteProtocolError("What was sent is nothing of tpid, or of another version.")
    return kind, body_bytes, payload_bytes
