import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tpid.errors import RequestError
from tpid.model.stop_strings import MAX_CHARS, MAX_STRINGS, StopStrings

# Few letters, so that starts of stop strings and overlaps are common.
TEXTS = st.lists(st.text("ab\n", max_size=6), max_size=8)
STRINGS = st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4)


def _oracle(text: str, strings: list[str]) -> tuple[str, bool]:
    """The whole text at once: cut before the stop string that ends first and, of those, starts first."""
    for end in range(1, len(text) + 1):
        starts = [end - len(string) for string in strings if text[:end].endswith(string)]
        if starts:
            return text[: min(starts)], True
    return text, False


@given(TEXTS, STRINGS)
@example(["aab"], ["aab", "ab"])
@example(["a", "a", "a", "b"], ["aab"])
@example(["abab", "abb"], ["ababb"])
def test_any_pieces_give_what_the_whole_text_gives(pieces: list[str], strings: list[str]) -> None:
    stops = StopStrings(strings)
    emitted, stopped = "", False
    for piece in pieces:
        text, stopped = stops.push(piece)
        emitted += text
    emitted += stops.flush()
    assert (emitted, stopped) == _oracle("".join(pieces), strings)


@given(TEXTS, STRINGS)
def test_only_possible_starts_are_held_back(pieces: list[str], strings: list[str]) -> None:
    stops = StopStrings(strings)
    emitted, seen = "", ""
    for piece in pieces:
        text, stopped = stops.push(piece)
        emitted, seen = emitted + text, seen + piece
        if stopped:
            return
        held = seen[len(emitted) :]
        assert seen == emitted + held
        assert held == "" or any(string.startswith(held) for string in strings)


def test_text_after_the_stop_is_dropped() -> None:
    stops = StopStrings(["\n\n"])
    assert stops.push("one\n") == ("one", False)
    assert stops.push("\ntwo") == ("", True)
    assert stops.push("three") == ("", True)
    assert stops.flush() == ""


def test_without_strings_nothing_is_held_back() -> None:
    assert StopStrings([]).push("text") == ("text", False)


@pytest.mark.parametrize("strings", [[""], ["a", ""], ["x" * (MAX_CHARS + 1)], ["x"] * (MAX_STRINGS + 1)])
def test_strings_out_of_bounds_are_refused(strings: list[str]) -> None:
    with pytest.raises(RequestError):
        StopStrings(strings)


def _oracle_with_hidden(pieces: list[tuple[str, bool]], strings: list[str], tokens: set[str]) -> tuple[str, bool]:
    """A string that holds a hidden token is looked for in all text, another in the shown text; then as `_oracle`."""
    characters = [(character, hidden) for text, hidden in pieces for character in text]
    for end in range(1, len(characters) + 1):
        everything = characters[:end]
        shown = [item for item in everything if not item[1]]
        starts = []
        for string in strings:
            sees = any(token in string for token in tokens)
            text = everything if sees else shown
            if (sees or not everything[-1][1]) and "".join(c for c, _ in text).endswith(string):
                before = text[: len(text) - len(string)]
                starts.append(sum(not hidden for _, hidden in before))
        if starts:
            return "".join(c for c, _ in shown)[: min(starts)], True
    return "".join(c for c, hidden in characters if not hidden), False


@given(
    st.lists(st.one_of(st.tuples(st.text("ab<", max_size=4), st.just(False)), st.just(("<b>", True))), max_size=8),
    st.lists(st.sampled_from(["a", "ab", "<b>", "a<b>", "<b>a", "b<b>a<b>", "<b><b>", "aab", "b>", "<"]), max_size=4),
)
@example([("a", False), ("<b>", True), ("b", False)], ["ab"])
@example([("a", False), ("<b>", True), ("a", False)], ["a<b>b", "<b>a"])
def test_hidden_text_ends_an_answer_only_by_strings_that_hold_it(
    pieces: list[tuple[str, bool]], strings: list[str]
) -> None:
    stops = StopStrings(strings, {"<b>"})
    emitted, stopped = "", False
    for text, hidden in pieces:
        more, stopped = stops.push_hidden(text) if hidden else stops.push(text)
        emitted += more
    emitted += stops.flush()
    assert (emitted, stopped) == _oracle_with_hidden(pieces, strings, {"<b>"})
