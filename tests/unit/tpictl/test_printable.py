import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from tpictl.printable import printable_line, printable_text


def test_escape_sequences_lose_their_power() -> None:
    assert printable_line("a\x1b[31mred\x9b0m\nb") == "a�[31mred�0m�b"


def test_text_keeps_its_lines_and_tabs() -> None:
    assert printable_text("a\tb\r\nc\x07") == "a\tb\nc�"


def test_letters_of_all_scripts_and_joined_emoji_stay() -> None:
    text = "Größe שלום 日本 👩\u200d💻"
    assert printable_text(text) == printable_line(text) == text


@given(st.text())
def test_no_control_is_left(text: str) -> None:
    assert not any(unicodedata.category(character) == "Cc" for character in printable_line(text))
    left = {character for character in printable_text(text) if unicodedata.category(character) == "Cc"}
    assert left <= {"\n", "\t"}
