"""Questions and answers: whole or byte by byte, and what is neither is one error."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.errors import RemoteProtocolError
from tpid.pack.geometry import Half
from tpid.pack.manifest import PackId
from tpid.pack.pieces import Piece
from tpid.transfer.wire import (
    ASK_BYTES,
    AnswerReader,
    Question,
    QuestionReader,
    What,
    decode_question,
    encode_given,
    encode_lacking,
    encode_question,
    question_for,
)

ids = st.binary(min_size=32, max_size=32).map(lambda data: PackId(data.hex()))
questions = st.builds(Question, ids, st.sampled_from(What), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))


def receive(reader: AnswerReader, data: bytes, step: int) -> None:
    while data:
        buffer = reader.get_buffer()
        n_bytes = min(step, len(buffer), len(data))
        buffer[:n_bytes] = data[:n_bytes]
        data = data[n_bytes:]
        reader.buffer_updated(n_bytes)


@given(st.lists(questions, max_size=4), st.integers(1, 200))
def test_questions_come_as_they_were_asked(asked: list[Question], step: int) -> None:
    data = b"".join(map(encode_question, asked))
    reader = QuestionReader()
    assert [q for start in range(0, len(data), step) for q in reader.feed(data[start : start + step])] == asked


@pytest.mark.parametrize("piece", [Piece(3, None), Piece(3, Half.ATTN, 7), Piece(0, Half.FFN, 40)])
def test_a_question_for_a_piece_names_it(piece: Piece) -> None:
    assert decode_question(encode_question(question_for(PackId("ab" * 32), piece))).piece == piece


@given(st.binary(min_size=ASK_BYTES, max_size=ASK_BYTES))
def test_any_bytes_are_a_question_or_one_error(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        assert encode_question(decode_question(data)) == data


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 100))
def test_answers_come_in_order_whatever_the_pieces(payloads: list[bytes], step: int) -> None:
    came: list[bytearray | None] = []
    reader = AnswerReader(lambda: 300, came.append)
    receive(reader, b"".join(encode_given(len(p)) + p if p else encode_lacking() for p in payloads), step)
    assert [bytes(answer) if answer is not None else b"" for answer in came] == payloads


@pytest.mark.parametrize(
    ("data", "most_bytes", "reason"),
    [
        (encode_given(301), 300, "301 bytes, 300 at most"),
        (encode_given(0), 300, "0 bytes"),
        (encode_given(2**32 - 1), 16, "16 at most"),
        (encode_given(10), -1, "answers no question"),
        (encode_lacking(), -1, "answers no question"),
        (b"XX" + encode_lacking()[2:], 300, "nothing of tpid"),
        (b"TP\x09" + encode_lacking()[3:], 300, "another version"),
        (encode_lacking()[:-1] + b"\x01", 300, "has a payload"),
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused_before_it_takes_memory(
    data: bytes, most_bytes: int, reason: str
) -> None:
    reader = AnswerReader(lambda: most_bytes, lambda answer: pytest.fail("it was taken"))
    with pytest.raises(RemoteProtocolError, match=reason):
        receive(reader, data, 100)
