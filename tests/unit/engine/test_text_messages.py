"""Replies of a text process, which may be anything."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.engine.constraint import mask_of
from tpid.engine.text_messages import LENGTH, MAX_FRAME_BYTES, TokenTable, decode_ids, decode_table, frame, pack
from tpid.errors import ChatTemplateError, RequestError, TokenizerError, TpidError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
FIELDS = st.sampled_from(["ids", "tokens", "special", "decoder", "error", "code", "message", "hint"])


def body(packed: bytes) -> bytes:
    (n_bytes,) = LENGTH.unpack(packed[: LENGTH.size])
    assert n_bytes == len(packed) - LENGTH.size
    return packed[LENGTH.size :]


@given(st.lists(st.integers(0, 2**31 - 1)))
def test_ids_arrive_as_they_were(ids: list[int]) -> None:
    assert decode_ids(body(pack({"ids": ids}))) == ids


@given(
    st.binary() | st.dictionaries(FIELDS, JSON | st.dictionaries(FIELDS, JSON)).map(lambda v: json.dumps(v).encode())
)
def test_any_reply_is_taken_or_refused(reply: bytes) -> None:
    for decode in (decode_ids, decode_table, mask_of):
        with contextlib.suppress(TpidError):
            decode(reply)  # type: ignore[operator]


@pytest.mark.parametrize("ids", [[-1], [2**31], [True], [1.0], ["1"], None, {}])
def test_ids_are_small_whole_numbers(ids: Any) -> None:
    with pytest.raises(TokenizerError, match="makes no sense"):
        decode_ids(body(pack({"ids": ids})))


def test_an_error_arrives_as_it_was_raised() -> None:
    reply = body(pack({"error": {"code": "chat_template", "message": "No.", "hint": "Ask differently."}}))
    with pytest.raises(ChatTemplateError) as raised:
        decode_ids(reply)
    assert (raised.value.message, raised.value.hint) == ("No.", "Ask differently.")


def test_a_table_knows_ids_without_a_token() -> None:
    table = decode_table(body(pack({"tokens": ["a", None, "<end>"], "special": ["<end>"], "decoder": None})))
    assert table == TokenTable(["a", None, "<end>"], frozenset({"<end>"}), None)
    assert [table.id_to_token(id) for id in (-1, 0, 1, 2, 3)] == [None, "a", None, "<end>", None]
    assert table.is_special("<end>")
    assert not table.is_special("a")


def test_what_json_carries_passes_and_the_rest_is_a_clear_error() -> None:
    odd = {"big": 10**30, "lone surrogate": "\ud83d"}
    assert json.loads(body(pack(odd))) == odd
    with pytest.raises(RequestError):
        pack({"set": {1, 2}})
    with pytest.raises(RequestError, match="more than"):
        frame(bytes(MAX_FRAME_BYTES + 1))
