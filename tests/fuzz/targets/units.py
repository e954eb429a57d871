"""Bytes of a device that asks for units, of one that gives them, and of a map of units on the disk."""

import functools
from contextlib import suppress

from tests.unit.specs import SMOLLM2
from tpid.errors import PackError, RemoteProtocolError
from tpid.model.weights import Format
from tpid.pack.geometry import ATTN_MATRICES, FFN_MATRICES, Half, block_geometry, vocab_geometry
from tpid.pack.manifest import BlockEntry, LayerEntry, Manifest, TokenEntry, VocabEntry
from tpid.pack.presence import Presence
from tpid.transfer.wire import AnswerReader, QuestionReader, encode_question

_MOST_BYTES = 1 << 20
_DIGEST = "0" * 64


@functools.cache
def _manifest() -> Manifest:
    def block(half: Half, matrices: tuple[str, ...]) -> BlockEntry:
        formats = dict.fromkeys(matrices, Format.F16)
        return BlockEntry(formats=formats, digests=[_DIGEST] * block_geometry(SMOLLM2, half, formats).n_units)

    layer = LayerEntry(attn=block(Half.ATTN, ATTN_MATRICES), ffn=block(Half.FFN, FFN_MATRICES), vectors=_DIGEST)
    return Manifest(
        pack_version=1,
        spec=SMOLLM2,
        layers=[layer] * SMOLLM2.n_layers,
        embed=VocabEntry(format=Format.F16, digests=[_DIGEST] * vocab_geometry(SMOLLM2, Format.F16).n_units),
        head=None,
        final_norm=_DIGEST,
        tokens=TokenEntry(bos_token=None, eos_token=None, eos_ids=[]),
        tokenizer=_DIGEST,
        chat_template=None,
    )


def fuzz(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        for question in QuestionReader().feed(data):
            assert encode_question(question) in data
            _ = question.piece
    with suppress(PackError):
        presence = Presence.decode(data, _manifest(), "x")
        assert Presence.decode(presence.encode(), _manifest(), "x").encode() == presence.encode()
    reader = AnswerReader(lambda: _MOST_BYTES, lambda answer: None)
    rest = memoryview(data)
    with suppress(RemoteProtocolError):
        while rest:
            buffer = reader.get_buffer()
            assert 0 < len(buffer) <= _MOST_BYTES
            n_bytes = min(len(buffer), len(rest))
            buffer[:n_bytes] = rest[:n_bytes]
            rest = rest[n_bytes:]
            reader.buffer_updated(n_bytes)
