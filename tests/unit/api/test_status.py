import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop

from tests.unit.api.scripted import STATS, ScriptedEngine, Serve, cluster_status, plan_of
from tpid.api.listen_address import TcpState
from tpid.api.status_body import status_body
from tpid.cluster.status import DeviceStatus, FailedDial, SightedDevice
from tpid.device import DeviceId, DeviceProfile, HeldUnits, Role
from tpid.engine.engine import EngineStatus
from tpid.engine.journal import Away, Journal
from tpid.engine.weight_use import WeightUse
from tpid.engine.work import Loading, Queued, Reading, Stage, Work, Writing
from tpid.engine.worker import Holding
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.plan.plan import LeftOut, Plan, Rank
from tpid.transfer.fetching import Fetching

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"


def status(serve: Serve) -> Any:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request("/tpid/status")

    code, answer = uvloop.run(main())
    assert code == 200
    return answer


def test_an_idle_daemon(serve: Serve) -> None:
    answer = status(serve)
    assert answer["schema"] == 1
    assert answer["cluster"]["cluster"] == "home"
    assert (answer["plan"], answer["holding"], answer["last"], answer["weights"]) == (None, None, None, {})
    assert (answer["busy"], answer["waiting_requests"], answer["work"]) == (False, 0, None)
    assert (answer["away"], answer["events"]) == ([], [])
    assert answer["memory_bytes"] > 1_000_000
    assert answer["host"]["available_bytes"] > 0
    assert answer["api"] == {"address": None, "secure": False, "failure": None}


def test_a_busy_coordinator(serve: Serve, engine: ScriptedEngine) -> None:
    weights = {DeviceId("ab"): WeightUse(5, 2, 3)}
    work = Work("m")
    work.queued(0)
    engine.status_ = EngineStatus(plan_of("m"), None, True, 2, STATS, weights, work, 41)
    engine.status_ = replace(
        engine.status_, fetches={"pi": (1, 4)}, fetching=Fetching(PackId("ab"), 2, 3, ("nas",), {})
    )
    answer = status(serve)
    assert answer["fetches"] == {"pi": {"done_bytes": 1, "total_bytes": 4}}
    assert (answer["fetching"]["done_bytes"], answer["fetching"]["sources"]) == (2, ["nas"])
    assert answer["plan"]["model"] == "m"
    assert (answer["busy"], answer["waiting_requests"], answer["written_tokens"]) == (True, 2, 41)
    assert answer["work"] == {"model": "m", "came_s": work.came_s, "stage": "queue", "ahead": 0}
    assert answer["weights"]["ab"]["streamed_bytes"] == 3
    assert (answer["last"]["ttft_s"], answer["last"]["tpot_s"], answer["last"]["tokens_s"]) == (0.5, 0.1, 10.0)


def test_who_was_put_out_of_the_home_is_not_away(serve: Serve, engine: ScriptedEngine) -> None:
    for name in ("desktop", "stranger"):
        engine.journal.joined(DeviceId(name), name)
        engine.journal.lost(DeviceId(name), name, "It left.", in_plan=False)
    answer = status(serve)
    assert [away["name"] for away in answer["away"]] == ["desktop"]
    assert [event["kind"] for event in answer["events"]] == ["joined", "lost"] * 2


def _device(id: str, *, is_me: bool) -> DeviceStatus:
    held = HeldUnits("ab", (0, 1), (0, 1), 1)
    profile = DeviceProfile(DeviceId(id), id, Role.USER, "1", 1, 1, 1, 1, 1.0, "native", units=(held,))
    return DeviceStatus(profile, "127.0.0.1:1", 0.1, is_me=is_me, coordinates=is_me, granted=True)


def _plan() -> Plan:
    rank = Rank(DeviceId("me"), "me", Share(UnitRange(0, 1), UnitRange(0, 1)), 1)
    return replace(plan_of("m"), ranks=(rank,), left_out=(LeftOut(DeviceId("other"), "other", "It is slow."),))


def _full(stage: Stage) -> dict[str, Any]:
    """All that can be told of a daemon."""
    journal, use, work = Journal(lambda: 5.0), WeightUse(1, 1, 1, 1.0, 1.0), Work("m")
    journal.joined(DeviceId("other"), "other")
    work.stage = stage
    cluster = replace(
        cluster_status(),
        devices=(_device("me", is_me=True), _device("other", is_me=False)),
        sighted=(SightedDevice(DeviceId("third"), "third", "127.0.0.1:2", 1),),
        failed=(FailedDial("127.0.0.1:3", None, "refused", "It refused."),),
    )
    holding = Holding("m", 1, 1, "other", use)
    process: Any = type("Process", (), {"memory_info": lambda self: type("Info", (), {"rss": 1})})()
    return status_body(
        engine=EngineStatus(
            _plan(),
            holding,
            True,
            1,
            STATS,
            {DeviceId("me"): use},
            work,
            1,
            fetching=Fetching(PackId("ab"), 1, 1, ("other",), {"me": "It is slow."}),
            fetches={"me": (1, 1)},
        ),
        cluster=cluster,
        journal=journal,
        away=[Away(DeviceId("gone"), "gone", 4.0, "It left.")],
        tcp=TcpState(),
        process=process,
    )


def _names(value: object) -> Iterator[str]:
    """Of all fields, however deep."""
    if isinstance(value, dict):
        yield from value
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ():
        yield from _names(item)


def test_since_when_devices_are_here() -> None:
    me, other = _full(Queued(0))["cluster"]["devices"]
    assert (me["since_s"], other["since_s"]) == (5.0, 5.0)


def test_every_field_is_documented_and_every_documented_field_is_told() -> None:
    section = DOCUMENT.read_text(encoding="utf-8").split("## The status")[1].split("\n## ")[0]
    table = [line for line in section.splitlines() if line.startswith("| `")]
    documented = {
        name for line in table for path in re.findall(r"`([^`]+)`", line) for name in re.findall(r"\w+", path)
    }
    stages: list[Stage] = [Queued(1), Loading(1, 2), Reading(1, 2), Writing(1)]
    told = {name for stage in stages for name in _names(_full(stage))} - {"me"}
    assert told - documented == set()
    assert documented - told == {"user", "helper", "decode", "ID", "NAME"}
