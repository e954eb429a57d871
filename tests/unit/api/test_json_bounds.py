import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.api.json_bounds import MAX_MARKS, JsonBounds

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)


def marks(value: object) -> int:
    """What a text of `value` has of commas, colons, and opening brackets, outside of strings."""
    if isinstance(value, dict):
        return 1 + len(value) + max(len(value) - 1, 0) + sum(map(marks, value.values()))
    if isinstance(value, list):
        return 1 + max(len(value) - 1, 0) + sum(map(marks, value))
    return 0


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    at = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:stop] for start, stop in itertools.pairwise(at)]


@given(JSON, st.booleans(), st.lists(st.integers(0, 1 << 20), max_size=20))
def test_marks_are_counted_outside_of_strings_however_the_text_is_cut(
    value: object, ascii: bool, cuts: list[int]
) -> None:
    data = json.dumps(value, ensure_ascii=ascii).encode(errors="surrogatepass")
    bounds = JsonBounds()
    assert all(bounds.push(piece) for piece in pieces(data, cuts))
    assert bounds.n_marks == marks(value)


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=20))
def test_any_bytes_give_the_same_count_whole_and_in_pieces(data: bytes, cuts: list[int]) -> None:
    whole, cut = JsonBounds(), JsonBounds()
    whole.push(data)
    for piece in pieces(data, cuts):
        cut.push(piece)
    assert whole.n_marks == cut.n_marks


@pytest.mark.parametrize("text", [b"1,", b"[", b"{", b'"",', b'""', b'"":'])
def test_many_items_are_too_many_whatever_they_are(text: bytes) -> None:
    bounds = JsonBounds()
    assert bounds.push(text * MAX_MARKS)
    assert not bounds.push(text * 2)


@pytest.mark.parametrize("text", [b'"' + b"a,[{:" * 10**5, b'"' + b'\\",' * 10**5, b"\\" * 10**5, b" " * 10**5])
def test_long_strings_are_no_items(text: bytes) -> None:
    bounds = JsonBounds(max_marks=0)
    assert bounds.push(text)


def test_a_backslash_at_the_end_of_a_piece_escapes_the_next_byte() -> None:
    bounds = JsonBounds()
    for piece in (b'["a\\', b'",,,\\', b"\\", b'"', b"]"):
        bounds.push(piece)
    assert bounds.n_marks == 1
