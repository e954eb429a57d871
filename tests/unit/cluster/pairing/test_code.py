import itertools
import math
import os
import random
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.cluster.pairing.code import make_code, parse_code
from tpid.cluster.pairing.words import WORDS
from tpid.errors import PairingError


def test_a_code_has_more_than_thirty_bits() -> None:
    assert math.log2(len(WORDS) ** 2 * 10**5) > 32


def test_words_are_told_apart() -> None:
    assert len(WORDS) == 256
    for first, second in itertools.combinations(WORDS, 2):
        assert first[:4] != second[:4]
        assert _distance(first, second) >= 3
    assert all(word.isascii() and word.isalpha() and word.islower() for word in WORDS)


def _distance(first: str, second: str) -> int:
    """Letters to put in, take out or exchange."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(second, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_codes_are_random_and_can_be_parsed() -> None:
    codes = {make_code(os.urandom) for _ in range(100)}
    assert len(codes) > 98
    assert all(parse_code(code) == code for code in codes)
    assert make_code(random.Random(1).randbytes) == make_code(random.Random(1).randbytes)
    assert make_code(bytes) == "abacus-abacus-00000"


@pytest.mark.parametrize(
    "typed",
    [
        "walnut-canyon-48213",
        "  Walnut Canyon 48213\n",
        "WALNUT-CANYON-48213",
        "walnut canyon 482 13",
        "walnut, canyon; 4 8 2 1 3.",
        "walnut–canyon–48213",
        "walnut_canyon 48213",
    ],
)
def test_what_stands_between_the_parts_does_not_matter(typed: str) -> None:
    assert parse_code(typed) == "walnut-canyon-48213"


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", "two words and five digits"),
        ("walnut-48213", "two words and five digits"),
        ("walnut-canyon-pony-48213", "two words and five digits"),
        ("48213-walnut-canyon", "two words and five digits"),
        ("walnut-cannyon-48213", "no pairing code has the word 'cannyon'. Is it 'canyon'?"),
        ("walnut-xxxxxx-48213", "no pairing code has the word 'xxxxxx'"),
        ("walnut-canyon-4821", "five digits; there are 4"),
        ("walnut-canyon-482134", "five digits; there are 6"),
        ("walnut-canyon-٤٨٢١٣", "five digits"),
        ("x" * 10_000, "longer than a pairing code"),
    ],
)
def test_a_slip_is_told_before_a_try_is_spent(typed: str, told: str) -> None:
    with pytest.raises(PairingError) as caught:
        parse_code(typed)
    assert told.casefold() in str(caught.value).casefold()
    assert "walnut-canyon-48213" in str(caught.value)


@given(st.text(max_size=50))
def test_any_text_is_a_code_or_one_error(typed: str) -> None:
    with suppress(PairingError):
        assert parse_code(parse_code(typed)) == parse_code(typed)
