import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpictl.client.event_stream import MAX_LINE_BYTES, EventParser, LineSplitter
from tpid.errors import RemoteProtocolError

EVENTS = b': hello\n\ndata: {"a": 1}\n\ndata: one\ndata:two\r\n\r\nid: 7\nevent: x\n\ndata: gr\xc3\xb6\xc3\x9fer\n\n'
PARSED = ['{"a": 1}', "one\ntwo", "größer"]


def _cut(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(places)]


@given(st.lists(st.integers(0, 1000)))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    parser = EventParser()
    assert [event for chunk in _cut(EVENTS, cuts) for event in parser.push(chunk)] == PARSED


def test_event_is_given_only_when_it_is_complete() -> None:
    parser = EventParser()
    assert parser.push(b"data: x\n") == []
    assert parser.push(b"\n") == ["x"]


@given(st.lists(st.text(st.characters(exclude_characters="\r\n", codec="utf-8"))), st.lists(st.integers(0, 1000)))
def test_lines_are_the_same_however_the_bytes_are_cut(lines: list[str], cuts: list[int]) -> None:
    data = "".join(line + "\n" for line in lines).encode()
    splitter = LineSplitter()
    assert [line for chunk in _cut(data, cuts) for line in splitter.push(chunk)] == lines


@given(st.lists(st.binary()))
def test_any_bytes_give_events_or_one_typed_error(chunks: list[bytes]) -> None:
    parser = EventParser()
    try:
        for chunk in chunks:
            assert all(isinstance(event, str) for event in parser.push(chunk))
    except RemoteProtocolError:
        pass


def test_a_line_without_end_is_refused_before_it_fills_the_memory() -> None:
    splitter = LineSplitter()
    splitter.push(b"x" * MAX_LINE_BYTES)
    with pytest.raises(RemoteProtocolError, match="line of more than"):
        splitter.push(b"x")


def test_an_event_without_end_is_refused() -> None:
    parser = EventParser()
    parser.push(b"data: " + b"x" * (MAX_LINE_BYTES - 10) + b"\n")
    with pytest.raises(RemoteProtocolError, match="event of more than"):
        parser.push(b"data: 12345678901\n")
