import io
from typing import Any

import pytest
from rich.console import Console, RenderableType

from tpictl.client.answers import Models, Plan, Status, Timings, UnitRange, Usage
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.commands.models import models_view
from tpictl.commands.status import Screen
from tpictl.view.dashboard import dashboard
from tpictl.view.plan_table import answer_line, units_of


def _shown(what: RenderableType) -> str:
    file = io.StringIO()
    Console(file=file, width=100).print(what)
    return "\n".join(line.rstrip() for line in file.getvalue().splitlines())


def _dashboard(status_json: dict[str, Any]) -> str:
    return _shown(dashboard(decode(Status, status_json)))


def test_all_that_is_known_of_a_cluster(status_json: dict[str, Any]) -> None:
    assert _dashboard(status_json) == (
        "cluster      home\n"
        "coordinator  laptop (this device), term 7\n"
        "model        smollm2-135m on 2 devices, context 4096 tokens, wire fp32, term 7\n"
        "now          busy, 2 requests wait, 700 MB in memory\n"
        "last answer  TTFT 431 ms, 23.8 tok/s\n"
        "discovery    on: announced on 127.0.0.1; 1 device of other homes\n"
        "\n"
        "device         role    threads   budget      RAM      RTT  address\n"
        "laptop (this)  user          4  4.00 GB  8.00 GB        -  127.0.0.1:7474\n"
        "desktop        helper        4  16.0 GB  32.0 GB  0.18 ms  127.0.0.1:41002\n"
        "phone          helper        4  2.00 GB  4.00 GB        -  127.0.0.1:41003\n"
        "\n"
        "rank  device   KV groups     FFN units         memory\n"
        "   0  laptop   1 of 3 (0)    18 of 48 (0-17)   300 MB\n"
        "   1  desktop  2 of 3 (1-2)  30 of 48 (18-47)  200 MB\n"
        "\n"
        "phone is left out: it does not have this model\n"
        "attic at 127.0.0.1:41005 is not connected: It speaks version 2.\n"
        "tablet at 127.0.0.1:41004 was seen and is not connected yet."
    )


def test_a_worker_tells_what_it_holds(status_json: dict[str, Any]) -> None:
    weights = {"resident_bytes": 35 * 10**6}
    holding = {"model": "smollm2-135m", "term": 7, "rank": 1, "coordinator": "laptop", "weights": weights}
    shown = _dashboard(status_json | {"plan": None, "holding": holding, "last": None, "busy": False})
    assert "model        smollm2-135m: rank 1 for laptop, 35.0 MB of weights" in shown
    assert "KV groups" not in shown
    assert "last answer" not in shown


def test_what_comes_from_other_devices_is_shown_with_who_is_asked_no_more(status_json: dict[str, Any]) -> None:
    fetching = {
        "pack": "ab" * 32,
        "done_bytes": 10**6,
        "total_bytes": 4 * 10**6,
        "sources": ["laptop", "nas"],
        "avoided": {"phone": "sent a damaged unit 3 of ffn of layer 2"},
    }
    fetches = {"desktop": {"done_bytes": 10**6, "total_bytes": 2 * 10**9}}
    shown = " ".join(_dashboard(status_json | {"fetching": fetching, "fetches": fetches}).split())
    assert "desktop gets its share from other devices: 1.00 MB of 2.00 GB." in shown
    assert "This device gets its share from laptop, nas: 1.00 MB of 4.00 MB." in shown
    assert "Nothing is asked of phone for a while: sent a damaged unit 3 of ffn of layer 2" in shown


STREAMS = {"resident_bytes": 35 * 10**6, "window_bytes": 2 * 10**6, "streamed_bytes": 20 * 10**6}


def test_what_streams_and_what_it_costs(status_json: dict[str, Any]) -> None:
    here = STREAMS | {"disk_bytes_s": 1.5 * 10**9, "stall_s": 0.0123}
    shown = _dashboard(status_json | {"weights": {"a" * 32: here, "b" * 32: STREAMS}})
    assert (
        "device   resident   window  a token streams       disk  stall a token\n"
        "laptop    35.0 MB  2.00 MB          20.0 MB  1.50 GB/s          12 ms\n"
        "desktop   35.0 MB  2.00 MB          20.0 MB          -              -\n"
    ) in shown


def test_nothing_is_said_of_streams_where_nothing_streams(status_json: dict[str, Any]) -> None:
    assert "stall" not in _dashboard(status_json | {"weights": {"a" * 32: {"resident_bytes": 1}}})


def test_a_worker_tells_what_streams(status_json: dict[str, Any]) -> None:
    holding = {"model": "m", "term": 7, "rank": 1, "coordinator": "laptop"}
    told = status_json | {"plan": None, "holding": holding | {"weights": STREAMS}}
    line = "m: rank 1 for laptop, 35.0 MB of weights resident, 20.0 MB a token through a window of 2.00 MB"
    assert line in " ".join(_dashboard(told).split())
    times = {"disk_bytes_s": 10**9, "stall_s": 0.5}
    told = status_json | {"plan": None, "holding": holding | {"weights": STREAMS | times}}
    assert f"{line}, disk 1.00 GB/s, stalls 500 ms a token" in " ".join(_dashboard(told).split())


def test_a_device_alone(status_json: dict[str, Any]) -> None:
    cluster = status_json["cluster"]
    alone = cluster | {
        "devices": cluster["devices"][:1],
        "coordinator": None,
        "sighted": [],
        "failed": [],
        "discovery": "off: no multicast",
    }
    idle = {"plan": None, "last": None, "busy": False, "waiting_requests": 0}
    shown = _dashboard(status_json | {"cluster": alone} | idle)
    assert "coordinator  none" in shown
    assert "model        none loaded" in shown
    assert "now          idle, 700 MB" in shown
    assert "off: no multicast" in shown


def test_devices_that_do_not_take_part_yet(status_json: dict[str, Any]) -> None:
    status_json["cluster"]["devices"][2]["granted"] = False
    status_json["plan"]["left_out"] = []
    shown = _dashboard(status_json)
    assert "phone came after the plan was made: it joins the next one." in shown
    assert "phone has not given its lease to this device yet." in shown


def test_names_cannot_be_markup(status_json: dict[str, Any]) -> None:
    status_json["cluster"]["devices"][1]["profile"]["name"] = "[bold]desk[/]"
    assert "[bold]desk[/]" in _dashboard(status_json)


def test_the_last_state_stays_while_the_daemon_is_away(daemon: Any) -> None:
    screen = Screen(Client(daemon.path))
    assert "home" in _shown(screen.now())
    daemon.refusal = (500, b"")
    away = _shown(screen.now())
    assert "The daemon's answer is not JSON." in away
    assert "The last that was known:\ncluster      home" in away
    daemon.refusal = None
    assert "The last that was known" not in _shown(screen.now())


def test_a_daemon_that_never_was_there_is_said_so(daemon: Any) -> None:
    shown = _shown(Screen(Client(daemon.path.with_name("other.sock"))).now())
    assert "there is no socket" in shown


def test_models(models_json: dict[str, Any]) -> None:
    models_json["models"].append({"name": "broken", "damaged": "layer 3 is cut short."})
    models_json["catalogue"] = {
        "smollm2-135m": {"about": "here", "size_bytes": 1},
        "big": {
            **{"about": "another", "size_bytes": 10**9, "memory_bytes": 2 * 10**9},
            **{"licence": "Apache-2.0", "quantization": "Q8_0"},
        },
        "odd": {"about": "an older daemon's", "size_bytes": 10**8},
    }
    models_json["default"] = "big"
    assert _shown(models_view(decode(Models, models_json))) == (
        "name          architecture  layers  formats     size  context\n"
        "smollm2-135m  llama             30  w4       98.0 MB     8192\n"
        "broken is damaged: layer 3 is cut short.\n"
        "\n"
        "to pull  what it is         quant     size   memory  licence\n"
        "big      another            Q8_0   1.00 GB  2.00 GB  Apache-2.0\n"
        "odd      an older daemon's          100 MB        -\n"
        "Sizes and memory are about so much. Others: tpictl pull hf.co/OWNER/REPO[:QUANT]\n"
        "For this home, to begin with: tpictl pull big"
    )


def test_no_models() -> None:
    assert _shown(models_view(Models((), {}))) == "No model is on this device yet."


@pytest.mark.parametrize(
    ("units", "text"), [(UnitRange(0, 0), "0 of 3"), (UnitRange(2, 3), "1 of 3 (2)"), (UnitRange(0, 3), "3 of 3 (0-2)")]
)
def test_units(units: UnitRange, text: str) -> None:
    assert units_of(units, 3) == text


def test_numbers_of_an_answer() -> None:
    assert (
        answer_line(Usage(34, 1), Timings(0.431, None, None)) == "TTFT 431 ms · 1 token · prompt 34 tokens (0 cached)"
    )
    whole = answer_line(Usage(34, 120), Timings(1.5, 0.042, 23.8))
    assert whole == "TTFT 1.50 s · TPOT 42 ms · 23.8 tok/s · 120 tokens · prompt 34 tokens (0 cached)"


def test_plan_without_ranks_is_still_a_plan(plan_json: dict[str, Any]) -> None:
    plan = decode(Plan, plan_json | {"ranks": []})
    assert (plan.n_attn_units, plan.n_ffn_units) == (0, 0)
