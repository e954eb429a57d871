import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.model.thoughts import Spoken, Thoughts


def spoken(pieces: list[str]) -> Spoken:
    thoughts = Thoughts()
    said = [*(thoughts.push(piece) for piece in pieces), thoughts.finish()]
    return Spoken("".join(one.thinking for one in said), "".join(one.text for one in said))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Spoken()),
        ("Paris.", Spoken(text="Paris.")),
        ("  Paris.", Spoken(text="  Paris.")),
        ("<think>\nFrance?\n</think>\n\nParis. ", Spoken("France?", "Paris. ")),
        ("\n<think></think>Paris", Spoken("", "Paris")),
        ("<think>a < b, </thin", Spoken("a < b, </thin")),
        ("<think>\nnever ends \n", Spoken("never ends \n")),
        ("<thin air>", Spoken(text="<thin air>")),
        ("<think", Spoken(text="<think")),
        ("<think>a</think>b<think>c</think>", Spoken("a", "b<think>c</think>")),
        ("Say <think>a</think>", Spoken(text="Say <think>a</think>")),
    ],
)
def test_an_answer_in_one_piece_and_by_the_character(text: str, expected: Spoken) -> None:
    assert spoken([text]) == expected
    assert spoken(list(text)) == expected


@given(st.lists(st.sampled_from(["<think>", "</think>", "<", "think", ">", " ", "\n", "a"]), max_size=12), st.data())
def test_how_it_is_cut_makes_no_difference(parts: list[str], data: st.DataObject) -> None:
    text = "".join(parts)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    assert spoken(pieces) == spoken([text])


def test_text_is_told_as_soon_as_it_is_certain() -> None:
    thoughts = Thoughts()
    assert [thoughts.push(piece) for piece in ("<think>Fra", "nce? ", "</think>", "\n", "Pa")] == [
        Spoken("Fra"),
        Spoken("nce?"),
        Spoken(),
        Spoken(),
        Spoken(text="Pa"),
    ]
