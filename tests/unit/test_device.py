"""Names of devices: what the configuration takes, every other place shows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.device import MAX_NAME_BYTES, MAX_NAME_CHARS, device_name, is_device_name


@pytest.mark.parametrize("name", ["pi", "Büro 💻", "👩\u200d💻 laptop", "リビング", "a b", "n" * MAX_NAME_CHARS])
def test_what_can_be_shown_is_a_name_and_stays_as_it_is(name: str) -> None:
    assert is_device_name(name)
    assert device_name(name) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("リビング\u3000パソコン", "リビング パソコン"),
        ("büro\u00a0pc", "büro pc"),
        (" pi\t", "pi"),
        ("u\u0308", "ü"),
        ("a\x1b[31m", "a[31m"),
        ("host-\udcff", "host-"),
        ("\u200d\u200d", ""),
        ("x" * 100, "x" * MAX_NAME_CHARS),
    ],
)
def test_other_texts_become_the_nearest_name(text: str, name: str) -> None:
    assert device_name(text) == name


@given(st.text(max_size=200))
def test_any_text_becomes_a_name_or_nothing(text: str) -> None:
    name = device_name(text)
    assert name == "" or is_device_name(name)
    assert device_name(name) == name
    assert len(name) <= MAX_NAME_CHARS
    assert len(name.encode()) <= MAX_NAME_BYTES
