"""The chat on a pseudo-terminal, key by key."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.unit.tpictl.commands.terminal import ALT_ENTER, CTRL_C, CTRL_D, ENTER, TIMEOUT_S, Terminal


def _messages(daemon: Any) -> list[dict[str, str]]:
    messages: list[dict[str, str]] = daemon.body("/v1/chat/completions")["messages"]
    return messages


def test_plan_answer_numbers_and_history(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("smollm2-135m on 2 devices")
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("Hellö, world.")
    terminal.wait_for("TTFT 431 ms")
    terminal.say(b"one\\", ENTER, b"two", ALT_ENTER, b"three", ENTER)
    terminal.wait_for("TTFT 431 ms", times=2)
    assert _messages(daemon) == [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hellö, world."},
        {"role": "user", "content": "one\ntwo\nthree"},
    ]
    terminal.say(CTRL_D)
    assert terminal.exit_code() == 0


def test_one_ctrl_c_stops_the_answer_and_the_next_asks(daemon: Any, terminal: Terminal) -> None:
    daemon.hang_after = 2
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("Hellö,")
    assert daemon.hanging.wait(TIMEOUT_S)
    terminal.type(CTRL_C)
    terminal.wait_for("Stopped.")
    assert daemon.client_gone.wait(TIMEOUT_S)
    daemon.hang_after = None
    terminal.say(b"Go on", ENTER)
    terminal.wait_for("TTFT 431 ms")
    assert _messages(daemon)[1:] == [
        {"role": "assistant", "content": "Hellö, "},
        {"role": "user", "content": "Go on"},
    ]
    terminal.say(b"half a line", CTRL_C)
    terminal.say(CTRL_C)
    terminal.wait_for("Ctrl-C once more leaves.")
    terminal.say(b"/nonsense", ENTER)
    terminal.wait_for("There is no /nonsense.")
    terminal.say(CTRL_C)
    terminal.wait_for("Ctrl-C once more leaves.", times=2)
    terminal.say(CTRL_C)
    assert terminal.exit_code() == 0


def test_ctrl_c_before_the_first_word(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("on 2 devices")  # loaded
    daemon.hang_after = 0
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("waiting")
    assert daemon.hanging.wait(TIMEOUT_S)
    terminal.type(CTRL_C)
    terminal.wait_for("Stopped before the answer began")
    assert "waiting" not in terminal.text()
    daemon.hang_after = None
    terminal.say(b"Hello", ENTER)
    terminal.wait_for("TTFT 431 ms")
    assert _messages(daemon) == [{"role": "user", "content": "Hello"}]


def _event(kind: str, device: str, **rest: Any) -> dict[str, Any]:
    event = {"number": 1, "time_s": 1.0, "kind": kind, "device": device, "in_plan": False, "reason": ""}
    return {"event": event | rest}


def test_how_far_an_answer_is(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("on 2 devices")
    for n_answers, (progress, line) in enumerate(
        [
            ({"stage": "queue", "ahead": 1}, "2nd in the queue"),
            ({"stage": "load", "done_bytes": 50, "total_bytes": 200}, "loading the model 25 %"),
            ({"stage": "prefill", "done_tokens": 437, "total_tokens": 1000}, "reading the prompt 43 %"),
        ],
        start=1,
    ):
        daemon.pieces, daemon.hang_after = [{"progress": progress}, "Hello."], 1
        daemon.hanging.clear()
        terminal.say(b"Hi", ENTER)
        terminal.wait_for(line)
        daemon.resume()
        terminal.wait_for("TTFT 431 ms", times=n_answers)
        assert line not in terminal.text()


def test_devices_that_leave_and_join_during_an_answer(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("on 2 devices")
    lost = _event("lost", "desktop", in_plan=True, reason="It has been silent for 2.5 s.")
    anew = {"progress": {"stage": "prefill", "done_tokens": 10, "total_tokens": 20}}
    daemon.pieces = ["One ", lost, anew, _event("recovered", "laptop"), "two.\n\n", _event("joined", "pi"), "Three."]
    daemon.hang_after = 3
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("desktop is lost: It has been silent for 2.5 s. The others compute its share.")
    terminal.wait_for("reading the prompt 50 %")
    daemon.resume()
    terminal.wait_for("TTFT 431 ms")
    lines = terminal.lines()
    notes = [
        "desktop is lost: It has been silent for 2.5 s. The others compute its share.",
        "The answer goes on with laptop.",
        "pi joined; it takes part from the next answer on.",
    ]
    assert [line for line in lines if line in notes] == notes
    assert lines.index("One two.") < lines.index("Three.")
    assert "reading the prompt" not in terminal.text()


def test_an_error_ends_the_answer_and_not_the_chat(daemon: Any, terminal: Terminal) -> None:
    daemon.fail_after = 1
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("desktop is gone. Switch it on.")
    daemon.fail_after = None
    terminal.say(b"And now?", ENTER)
    terminal.wait_for("TTFT 431 ms")
    assert _messages(daemon)[1] == {"role": "assistant", "content": "Hel"}


def test_commands(daemon: Any, terminal: Terminal) -> None:
    terminal.say(b"/sytsem x", ENTER)
    terminal.wait_for("Did you mean /system?")
    terminal.say(b"/system Be brief.", ENTER)
    terminal.wait_for("The system message is set.")
    terminal.say(b"/set temperature 0.2", ENTER)
    terminal.wait_for("temperature is 0.2.")
    terminal.say(b"/set temperature hot", ENTER)
    terminal.wait_for("temperature needs a number, not 'hot'.")
    terminal.say(b"/set", ENTER)
    terminal.wait_for("stop                 default")
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("TTFT 431 ms")
    terminal.say(b"/stats", ENTER)
    terminal.wait_for("30 of 48 (18-47)", times=2)
    terminal.wait_for("TTFT 431 ms", times=2)
    terminal.say(b"/clear", ENTER)
    terminal.wait_for("A new chat.")
    terminal.say(b"/?", ENTER)
    terminal.wait_for("Ctrl-C stops an answer.")
    terminal.say(b"Again", ENTER)
    terminal.wait_for("TTFT 431 ms", times=3)
    assert daemon.body("/v1/chat/completions")["temperature"] == 0.2
    assert _messages(daemon) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Again"}]
    terminal.say(b"/bye", ENTER)
    assert terminal.exit_code() == 0


def test_a_new_plan_is_told(daemon: Any, terminal: Terminal) -> None:
    daemon.status["plan"] = {**daemon.plan, "term": 8, "ranks": daemon.plan["ranks"][:1]}
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("New plan: smollm2-135m on 1 device")


def test_what_was_typed_is_kept_for_its_owner(terminal: Terminal, short_directory: Path) -> None:
    terminal.say(b"remember me", ENTER)
    terminal.wait_for("TTFT 431 ms")
    history = short_directory / "tpid" / "chat_history"
    assert "remember me" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_model_output_cannot_command_the_terminal(daemon: Any, terminal: Terminal) -> None:
    daemon.pieces = ["a\x1b]0;title\x07", "b &#x202e;c"]
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("TTFT 431 ms")
    assert "a\N{REPLACEMENT CHARACTER}]0;title\N{REPLACEMENT CHARACTER}b \N{REPLACEMENT CHARACTER}c" in terminal.text()
    assert terminal.screen.title == ""


MARKDOWN = (
    "# Rivers\n\nThe **Rhine** is long, and flows through several countries.\n\n"
    "1. Rhine\n2. Elbe\n\n```python\nprint('Elbe')\n```\n\n"
    "| name | km |\n|---|---|\n| Rhine | 1233 |\n\nThat <b>is</b> all."
)


def test_markdown_however_it_is_cut(daemon: Any, tpictl: Callable[..., Terminal]) -> None:
    daemon.pieces = list(MARKDOWN)
    terminal = tpictl("chat", "--no-stats")
    terminal.say(b"Rivers?", ENTER)
    terminal.wait_for("That <b>is</b> all.")
    terminal.say(CTRL_D)
    assert terminal.exit_code() == 0
    lines = terminal.lines()
    begin = lines.index("Rivers")
    assert lines[begin : lines.index("That <b>is</b> all.") + 1] == [
        "Rivers",
        "",
        "The Rhine is long, and flows through several countries.",
        "",
        "1. Rhine",
        "2. Elbe",
        "",
        "  print('Elbe')",
        "",
        " name   km",
        " ───────────",
        " Rhine  1233",
        "",
        "That <b>is</b> all.",
    ]


def test_nothing_is_erased_before_it_is_written_anew(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("on 2 devices")
    daemon.pieces, daemon.hang_after = ["one two three ", "four"], 2
    before = len(terminal.written)
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("one two three four")
    assert b"\x1b[2K" not in terminal.written[before:].split(b"Hi")[-1]


def test_an_answer_higher_than_the_screen_is_whole_at_the_end(daemon: Any, tpictl: Callable[..., Terminal]) -> None:
    daemon.pieces = [f"- item {number}\n" for number in range(40)]
    terminal = tpictl("chat", "--no-stats", columns=30, rows=10)
    terminal.say(b"List", ENTER)
    terminal.wait_for("• item 39")
    terminal.say(CTRL_D)
    assert terminal.exit_code() == 0
    lines = terminal.lines()
    first = lines.index(" • item 0")
    assert lines[first : first + 40] == [f" • item {number}" for number in range(40)]
    assert all(lines.count(f" • item {number}") == 1 for number in range(40))


def test_words_wrap_at_thirty_columns(daemon: Any, tpictl: Callable[..., Terminal]) -> None:
    daemon.pieces = ["The quick brown fox jumps ", "over the lazy dog, again and again."]
    terminal = tpictl("chat", columns=30)
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("23.8 tok/s")
    lines = terminal.lines()
    assert "The quick brown fox jumps" in lines
    assert "over the lazy dog, again and" in lines
    assert "TTFT 431 ms · TPOT 42 ms ·" in lines
    assert "laptop: KV groups 1 of 3 (0)," in lines


def test_a_terminal_that_becomes_narrower(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("on 2 devices")
    daemon.pieces, daemon.hang_after = ["The quick brown fox ", "jumps over the lazy dog."], 2
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("lazy dog.")
    terminal.resize(40, 24)
    terminal.wait_for("The quick brown fox jumps over the lazy\ndog.")
    terminal.type(CTRL_C)
    terminal.wait_for("Stopped.")


def test_keys_during_an_answer_do_not_mix_with_it(daemon: Any, terminal: Terminal) -> None:
    terminal.wait_for("on 2 devices")
    daemon.hang_after = 2
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("Hellö,")
    terminal.type(b"typed ahead")
    daemon.resume()
    terminal.wait_for("TTFT 431 ms")
    terminal.wait_for("> typed ahead")
    lines = terminal.lines()
    assert "Hellö, world." in lines
    assert sum("typed ahead" in line for line in lines) == 1


def test_a_terminal_that_only_goes_forward(daemon: Any, tpictl: Callable[..., Terminal]) -> None:
    daemon.pieces = ["**Hellö**", ", world."]
    terminal = tpictl("chat", variables={"TERM": "dumb"})
    terminal.wait_for("tells what can be typed.\n>")
    terminal.type(b"Hi", ENTER)
    terminal.wait_for("**Hellö**, world.")
    terminal.wait_for("TTFT 431 ms")
    assert b"\x1b[" not in terminal.written


def test_no_colour(daemon: Any, tpictl: Callable[..., Terminal]) -> None:
    daemon.pieces = ["```python\n", "print('Elbe')\n```\n"]
    terminal = tpictl("chat", variables={"NO_COLOR": "1"})
    terminal.say(b"Hi", ENTER)
    terminal.wait_for("TTFT 431 ms")
    written = terminal.written.split(b"print(")[1]
    assert b"\x1b[3" not in written.split(b"TTFT")[0]


def test_no_stats(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("chat", "--no-stats")
    opened.say(b"Hi", ENTER)
    opened.wait_for("Hellö, world.")
    opened.say(CTRL_D)
    assert opened.exit_code() == 0
    assert "KV groups" not in opened.text()
    assert "TTFT" not in opened.text()


def test_json_wants_its_prompt_from_a_pipe(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("chat", "--json", columns=200)
    opened.wait_for('"message": "With --json the prompt comes on standard input."')
    assert opened.exit_code() == 1
