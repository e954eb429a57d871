import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpictl.commands.slash import (
    COMMANDS,
    HELP,
    Action,
    Exit,
    Help,
    Misunderstood,
    New,
    Nothing,
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
        ("/help", Help()),
        ("/new ", New()),
        ("/stats", ShowStats()),
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
        ("/quit", "Did you mean /exit?"),
        ("/zzzzzz", "Try /help."),
        ("/new chat", "/new stands alone"),
        ("/set temperature", "/set temperature VALUE"),
        ("/", "Try /help."),
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


def test_help_names_every_command() -> None:
    for command in COMMANDS:
        assert not isinstance(understand(command), Misunderstood)
        assert command in HELP
