"""The dashboard on a pseudo-terminal, key by key."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.tpictl.commands.terminal import CTRL_C, TIMEOUT_S, Terminal

KEYS = "q quit · p pause · s sort: name · x remove a device"


@pytest.fixture
def watch(daemon: Any, tpictl: Callable[..., Terminal]) -> Terminal:
    opened = tpictl("status", "--watch", columns=100)
    opened.wait_for(KEYS)
    return opened


def test_it_follows_what_happens(daemon: Any, watch: Terminal) -> None:
    watch.wait_for("idle · 2 more wait")
    now_s = daemon.status["time_s"]
    lost = {"number": 1, "time_s": now_s - 12.0, "kind": "lost", "device": "pi", "in_plan": True}
    daemon.status |= {
        "work": {"stage": "decode", "tokens": 41, "model": "smollm2-135m", "came_s": now_s - 5.0},
        "away": [{"id": "e" * 64, "name": "pi", "since_s": now_s - 12.0, "reason": ""}],
        "events": [lost | {"reason": "Device pi at 10.0.0.7:7474 has been silent for 2.5 s."}],
    }
    watch.wait_for("writing, 41 tokens · smollm2-135m")
    watch.wait_for("pi has been silent for 2.5 s.")
    watch.type(b"q")
    assert watch.exit_code() == 0


def test_tokens_a_second(daemon: Any, watch: Terminal) -> None:
    daemon.status |= {"time_s": daemon.status["time_s"] + 2.0, "written_tokens": 48}
    watch.wait_for("24 tok/s")
    watch.wait_for("█")
    watch.type(CTRL_C)
    assert watch.exit_code() == 0


def test_a_daemon_that_goes_away_and_one_that_hangs(daemon: Any, watch: Terminal) -> None:
    daemon.hang_in_status = True
    assert daemon.hanging.wait(TIMEOUT_S)
    watch.wait_for("the daemon does not answer.")
    daemon.refusal = (500, b'{"error": {"code": "internal", "message": "Something is wrong."}}')
    daemon.hang_in_status = False
    daemon.resume()
    watch.wait_for("Something is wrong.")
    watch.wait_for("smollm2-135m")  # the last that was known stays
    daemon.refusal = None
    watch.wait_until_gone("stale")
    watch.type(b"q")
    assert watch.exit_code() == 0


def test_pause_and_sort(daemon: Any, watch: Terminal) -> None:
    watch.type(b"s")
    watch.wait_for("s sort: share")
    watch.type(b"\x1b[A\x1bOBp")  # arrows change nothing
    watch.wait_for("paused")
    watch.wait_for("p go on")
    daemon.status |= {"waiting_requests": 7}
    daemon.wait_for_status(2)
    watch.type(b"s")
    watch.wait_for("s sort: state")
    assert "7 more wait" not in watch.text()
    watch.type(b"p")
    watch.wait_for("7 more wait")


def test_a_device_is_removed_only_after_a_yes(daemon: Any, watch: Terminal) -> None:
    watch.type(b"x")
    watch.wait_for("Remove which? 2 3")
    watch.type(b"2")
    watch.wait_for("Put desktop out of this home, until it is invited again? y/n")
    watch.type(b"n")
    watch.wait_for(KEYS)
    assert not [target for target, _ in daemon.requests if "remove" in target]
    watch.type(b"x")
    watch.wait_for("Remove which? 2 3")
    watch.type(b"3y")
    watch.wait_for("phone does not belong to this home any more.")
    assert daemon.body("/tpid/devices/remove") == {"name": "phone"}


def test_a_question_is_seen_on_a_low_screen(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("status", "--watch", columns=100, rows=6)
    opened.wait_for(KEYS)
    opened.type(b"x")
    opened.wait_for("Remove which? 2 3")


def test_it_fits_thirty_columns(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("status", "--watch", columns=30, rows=40)
    opened.wait_for("computes")
    opened.wait_for("desktop")
    opened.type(b"q")
    assert opened.exit_code() == 0


def test_no_daemon_yet(environment: dict[str, str], tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("status", "--watch", variables={"TPID_SOCKET": environment["TPID_SOCKET"] + ".none"})
    opened.wait_for("there is no socket")
    opened.type(b"q")
    assert opened.exit_code() == 0


def test_a_terminal_that_only_goes_forward(tpictl: Callable[..., Terminal]) -> None:
    opened = tpictl("status", "--watch", variables={"TERM": "dumb"})
    opened.wait_for("coordinator  laptop (this device)", times=2)
    opened.type(CTRL_C)
    assert opened.exit_code() == 0
    assert b"\x1b[" not in opened.written
