"""SentencePiece's `tokenizer.model`: a protobuf, of which we read the few fields that BPE models need.

https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
https://protobuf.dev/programming-guides/encoding/
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.limits import MAX_VOCAB
from tpid.model.sentencepiece_bpe import Pieces
from tpid.model.tokenizer_parts import TokenType

_PIECE, _TRAINER, _NORMALIZER = 1, 2, 3  # fields of ModelProto
_TEXT, _SCORE, _TYPE = 1, 2, 3  # of ModelProto.SentencePiece
_MODEL_TYPE, _UNK_ID, _BOS_ID, _EOS_ID = 3, 40, 41, 42  # of TrainerSpec
_CHARSMAP, _ADD_DUMMY_PREFIX, _REMOVE_EXTRA_SPACES, _ESCAPE_SPACES = 2, 3, 4, 5  # of NormalizerSpec
_BPE = 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types
_MAX_VARINT_BYTES = 10

_Value = int | bytes


@dataclass(frozen=True, slots=True)
class SentencePieceFile:
    pieces: Pieces
    bos_id: int | None
    eos_id: int | None


def read_sentencepiece(data: bytes, where: str) -> SentencePieceFile:
    """Raises TokenizerError where `data` is not sound, UnsupportedModelError where it is not BPE; both name `where`."""
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    parts: dict[int, list[bytes]] = {_TRAINER: [], _NORMALIZER: []}
    for number, value in _fields(data, where):
        if number == _PIECE:
            token, score, type = _piece(_part(value, where), where)
            tokens.append(token)
            scores.append(score)
            types.append(type)
            if len(tokens) > MAX_VOCAB:
                raise TokenizerError(f"{where} has more than {MAX_VOCAB} pieces.")
        elif number in parts:
            parts[number].append(_part(value, where))  # protobuf merges what is given twice
    if not tokens:
        raise TokenizerError(f"{where} holds no pieces.")
    trainer = dict(_fields(b"".join(parts[_TRAINER]), where))
    normalizer = dict(_fields(b"".join(parts[_NORMALIZER]), where))
    _refuse_unsupported(trainer, normalizer, where)
    return SentencePieceFile(
        Pieces(tokens, scores, types, add_space_prefix=normalizer.get(_ADD_DUMMY_PREFIX, 1) == 1),
        bos_id=_id(trainer, _BOS_ID, 1, len(tokens)),
        eos_id=_id(trainer, _EOS_ID, 2, len(tokens)),
    )


def _refuse_unsupported(trainer: Mapping[int, _Value], normalizer: Mapping[int, _Value], where: str) -> None:
    """What changes the ids and the tokens library would do otherwise."""
    hint = "Use a model that comes with a tokenizer.json."
    if trainer.get(_MODEL_TYPE, 1) != _BPE:
        raise UnsupportedModelError(f"{where} is a SentencePiece model but not a BPE one.", hint=hint)
    if normalizer.get(_CHARSMAP) or normalizer.get(_REMOVE_EXTRA_SPACES, 1) != 0:
        raise UnsupportedModelError(f"{where} normalizes its text, which tpid does not do.", hint=hint)
    if normalizer.get(_ESCAPE_SPACES, 1) != 1:
        raise UnsupportedModelError(f"{where} keeps spaces unescaped, which tpid does not do.", hint=hint)


def _piece(data: bytes, where: str) -> tuple[str, float, int]:
    fields = dict(_fields(data, where))
    text, score, type = fields.get(_TEXT, b""), fields.get(_SCORE, bytes(4)), fields.get(_TYPE, TokenType.NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, bytes) or len(score) != 4 or not isinstance(type, int):
        raise TokenizerError(f"{where} has a piece whose fields are of the wrong type.")
    try:
        return text.decode(), struct.unpack("<f", score)[0], int(type)
    except UnicodeDecodeError as error:
        raise TokenizerError(f"{where} has a piece that is not UTF-8.") from error


def _id(trainer: Mapping[int, _Value], field: int, default: int, n_tokens: int) -> int | None:
    """None where the model has no such token: -1, which is 64 bits long on the wire."""
    value = trainer.get(field, default)
    return value if isinstance(value, int) and value < n_tokens else None


def _fields(data: bytes, where: str) -> Iterator[tuple[int, _Value]]:
    """Field numbers and values: a varint as int, everything else as its bytes."""
    position = 0
    while position < len(data):
        key, position = _varint(data, position, where)
        if key & 7 == _VARINT:
            value, position = _varint(data, position, where)
            yield key >> 3, value
            continue
        size = {_FIXED64: 8, _FIXED32: 4}.get(key & 7)
        if key & 7 == _BYTES:
            size, position = _varint(data, position, where)
        if size is None or size > len(data) - position:
            raise TokenizerError(f"{where} is truncated or is not a SentencePiece model.")
        yield key >> 3, data[position : position + size]
        position += size


def _varint(data: bytes, position: int, where: str) -> tuple[int, int]:
    """The value and the position after it."""
    value = 0
    for n, byte in enumerate(data[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return value, position + n + 1
    raise TokenizerError(f"{where} is truncated or is not a SentencePiece model.")


def _part(value: _Value, where: str) -> bytes:
    if isinstance(value, int):
        raise TokenizerError(f"{where} has a number where a SentencePiece model has a message.")
    return value
