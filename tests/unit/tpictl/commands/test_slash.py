import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpictl.commands.slash import (
    COMMANDS,
    HINTS,
    NAMES,
    Action,
    Edit,
    Exit,
    Help,
    Load,
    Misunderstood,
    Model,
    New,
    Nothing,
    Retry,
    Save,
    Say,
    Set,
    ShowSettings,
    ShowStats,
    System,
    understand,
)


@pytest.mark.parametrize(
    ("line", "action"),
    [
        ("Hello", Say("Hello")),
        ("  Hello\nthere \n", Say("Hello\nthere")),
        ("", Nothing()),
        (" \n", Nothing()),
        ("/?", Help()),
        ("/help", Help()),
        ("/clear ", New()),
        ("/new", New()),
        ("/stats", ShowStats()),
        ("/retry", Retry()),
        ("/edit", Edit()),
        ("/save holiday", Save("holiday")),
        ("/load holiday", Load("holiday")),
        ("/load", Load(None)),
        ("/model smollm2-135m", Model("smollm2-135m")),
        ("/model", Model(None)),
        ("/bye", Exit()),
        ("/exit", Exit()),
        ("/system Be brief.\nAlways.", System("Be brief.\nAlways.")),
        ("/system", System(None)),
        ("/set", ShowSettings()),
        ("/set temperature 0.2", Set("temperature", "0.2")),
        ("/set stop two words", Set("stop", "two words")),
        ("//etc/passwd is what?", Say("/etc/passwd is what?")),
    ],
)
def test_what_a_line_asks_for(line: str, action: Action) -> None:
    assert understand(line) == action


@pytest.mark.parametrize(
    ("line", "part"),
    [
        ("/stat", "Did you mean /stats?"),
        ("/retyr", "Did you mean /retry?"),
        ("/zzzzzz", "Try /?"),
        ("/save", "/save NAME"),
        ("/new chat", "/new stands alone"),
        ("/set temperature", "/set temperature VALUE"),
        ("/", "Try /?"),
    ],
)
def test_what_is_not_understood_is_explained(line: str, part: str) -> None:
    action = understand(line)
    assert isinstance(action, Misunderstood)
    assert part in action.reason


@given(st.text())
def test_every_line_is_understood_somehow(line: str) -> None:
    action = understand(line)
    if isinstance(action, Say):
        assert action.prompt.strip()


def test_every_command_that_is_listed_is_one() -> None:
    for usage in COMMANDS:
        line = usage.replace("NAME VALUE", "seed 7").replace("NAME", "x").replace("[", "").replace("]", "")
        assert not isinstance(understand(line), Misunderstood)
        assert usage.split()[0] in NAMES


def test_the_hints_tell_of_what_is_no_command() -> None:
    assert "@path" in " ".join(HINTS)
