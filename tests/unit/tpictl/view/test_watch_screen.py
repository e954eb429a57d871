import io
from typing import Any

import pytest
from rich.console import Console

from tpictl.client.answers import Status
from tpictl.client.decode import decode
from tpictl.view.watch_rows import SORTS, rows_of
from tpictl.view.watch_screen import WatchState, watch_screen

NOW_S = 1000.0
LAPTOP, DESKTOP, PHONE = (character * 32 for character in "abc")


@pytest.fixture
def watched(status_json: dict[str, Any]) -> dict[str, Any]:
    """A busy home: the desktop streams, the phone is left out, pi is lost."""
    for device, since_s in zip(status_json["cluster"]["devices"], (400.0, 820.0, 941.0), strict=True):
        device["since_s"] = since_s
    status_json["cluster"] |= {"failed": [], "sighted": []}
    event = {"device": "pi", "in_plan": True, "reason": ""}
    silent = "Device pi at 10.0.0.7:7474 has been silent for 2.5 s."
    return status_json | {
        "time_s": NOW_S,
        "weights": {
            LAPTOP: {"resident_bytes": 60 * 10**6},
            DESKTOP: {"resident_bytes": 20 * 10**6, "streamed_bytes": 40 * 10**6, "disk_bytes_s": 1.5e9},
        },
        "work": {"stage": "decode", "tokens": 41, "model": "smollm2-135m", "came_s": 995.0},
        "away": [{"id": "e" * 32, "name": "pi", "since_s": 988.0, "reason": "It is silent."}],
        "events": [
            {"number": 1, "time_s": 820.0, "kind": "joined", **event},
            {
                "number": 2,
                "time_s": 988.0,
                "kind": "lost",
                **event,
                "reason": silent,
            },
            {"number": 3, "time_s": 989.0, "kind": "recovered", **event, "device": "laptop, desktop"},
        ],
        "host": {"load": 0.35, "available_bytes": 3 * 10**9},
    }


def _shown(status_json: dict[str, Any], columns: int = 120, **state: Any) -> str:
    file = io.StringIO()
    now = WatchState(clock="14:52:07", now_s=NOW_S, **state)
    Console(file=file, width=columns).print(watch_screen(decode(Status, status_json), now, columns))
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def test_one_row_a_device_and_what_is_done(watched: dict[str, Any]) -> None:
    assert _shown(watched, rates=(0.0, 12.0, 24.0)) == (
        "14:52:07  home home · smollm2-135m · 700 MB here\n"
        "\n"
        "device         state               share            memory        streams       disk      RTT  load\n"
        "laptop (this)  coordinates 10 min  █████░░░░░ 50%  60.0 MB                                      35%\n"
        "desktop        computes 3 min      █████░░░░░ 50%  20.0 MB  40.0 MB/token  1.50 GB/s  0.18 ms\n"
        "phone          left out 59 s\n"
        "pi             lost 12 s\n"
        "\n"
        "writing, 41 tokens · smollm2-135m · 5 s · 2 more wait\n"
        "24 tok/s     ▁▅█\n"
        "last answer: TTFT 431 ms, 23.8 tok/s\n"
        "\n"
        " 11 s ago  the answer goes on with laptop, desktop\n"
        " 12 s ago  pi has been silent for 2.5 s.\n"
        "3 min ago  pi joined\n"
        "\n"
        "phone is left out: it does not have this model\n"
        "\n"
        "q quit · p pause · s sort: name · x remove a device"
    )


@pytest.mark.parametrize("columns", [30, 44, 60, 80, 200])
def test_it_fits(watched: dict[str, Any], columns: int) -> None:
    lines = _shown(watched, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(line.startswith("desktop") and "computes 3 min" in line for line in lines)


@pytest.mark.parametrize(
    ("work", "line"),
    [
        (
            {"stage": "prefill", "done_tokens": 43, "total_tokens": 100},
            "reading the prompt 43 % · m · 5 s · 2 more wait",
        ),
        ({"stage": "load", "done_bytes": 1, "total_bytes": 4}, "loading the model 25 % · m · 5 s · 2 more wait"),
        (None, "idle · 2 more wait"),
    ],
)
def test_the_request_at_work(watched: dict[str, Any], work: dict[str, Any] | None, line: str) -> None:
    told = {**work, "model": "m", "came_s": 995.0} if work else None
    assert line in _shown(watched | {"work": told}).splitlines()


def test_a_daemon_that_does_not_answer(watched: dict[str, Any]) -> None:
    assert "\nstale for 5 s: No daemon runs here.\n" in _shown(watched, stale_s=5.0, trouble="No daemon runs here.")


def test_a_device_that_is_to_be_chosen(watched: dict[str, Any]) -> None:
    shown = _shown(watched, numbers={DESKTOP: "2"}, bottom="Remove which? 2")
    assert "\n2  desktop " in shown
    assert shown.endswith("Remove which? 2")


def test_the_share_of_the_ffn_until_the_weights_are_told(watched: dict[str, Any]) -> None:
    shown = _shown(watched | {"weights": {}})
    assert "████░░░░░░ 38%" in shown  # 18 of 48
    assert "██████░░░░ 62%" in shown


def test_a_helper_shows_what_it_holds(watched: dict[str, Any]) -> None:
    weights = {"resident_bytes": 35 * 10**6}
    holding = {"model": "m", "term": 7, "rank": 1, "coordinator": "laptop", "weights": weights}
    watched["cluster"]["devices"][0]["coordinates"] = False
    shown = _shown(watched | {"plan": None, "weights": {}, "holding": holding, "work": None})
    assert "laptop (this)  computes 10 min" in shown
    assert "35.0 MB" in shown


@pytest.mark.parametrize(
    ("sort", "names"),
    [
        ("name", ["laptop", "desktop", "phone", "pi"]),
        ("share", ["laptop", "desktop", "phone", "pi"]),
        ("state", ["laptop", "desktop", "phone", "pi"]),
        ("round trip", ["laptop", "desktop", "phone", "pi"]),
    ],
)
def test_orders(watched: dict[str, Any], sort: str, names: list[str]) -> None:
    assert [row.name for row in rows_of(decode(Status, watched), sort)] == names
    assert sort in SORTS


def test_other_orders(watched: dict[str, Any]) -> None:
    one, two, three = watched["cluster"]["devices"]
    three["rtt_s"], two["rtt_s"] = 0.001, 0.002
    two["sits_out"] = "It was slow."
    order = {sort: [row.name for row in rows_of(decode(Status, watched), sort)] for sort in SORTS}
    assert order["round trip"] == ["laptop", "phone", "desktop", "pi"]
    assert order["state"] == ["laptop", "phone", "pi", "desktop"]
    assert one["profile"]["name"] == "laptop"
