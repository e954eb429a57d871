from dataclasses import replace
from typing import Any

import uvloop

from tests.unit.api.scripted import STATS, ScriptedEngine, Serve, plan_of
from tpid.device import DeviceId
from tpid.engine.engine import EngineStatus
from tpid.engine.weight_use import WeightUse
from tpid.pack.manifest import PackId
from tpid.transfer.fetching import Fetching


def status(serve: Serve) -> Any:
    async def main() -> tuple[int, Any]:
        async with serve() as api:
            return await api.request("/tpid/status")

    code, answer = uvloop.run(main())
    assert code == 200
    return answer


def test_an_idle_daemon(serve: Serve) -> None:
    answer = status(serve)
    assert answer["cluster"]["cluster"] == "home"
    assert (answer["plan"], answer["holding"], answer["last"], answer["weights"]) == (None, None, None, {})
    assert (answer["busy"], answer["waiting_requests"]) == (False, 0)
    assert answer["memory_bytes"] > 1_000_000
    assert answer["api"] == {"address": None, "secure": False, "failure": None}


def test_a_busy_coordinator(serve: Serve, engine: ScriptedEngine) -> None:
    weights = {DeviceId("ab"): WeightUse(5, 2, 3)}
    engine.status_ = EngineStatus(plan_of("m"), None, True, 2, STATS, weights)
    engine.status_ = replace(
        engine.status_, fetches={"pi": (1, 4)}, fetching=Fetching(PackId("ab"), 2, 3, ("nas",), {})
    )
    answer = status(serve)
    assert answer["fetches"] == {"pi": {"done_bytes": 1, "total_bytes": 4}}
    assert (answer["fetching"]["done_bytes"], answer["fetching"]["sources"]) == (2, ["nas"])
    assert answer["plan"]["model"] == "m"
    assert (answer["busy"], answer["waiting_requests"]) == (True, 2)
    assert answer["weights"]["ab"]["streamed_bytes"] == 3
    assert (answer["last"]["ttft_s"], answer["last"]["tpot_s"], answer["last"]["tokens_s"]) == (0.5, 0.1, 10.0)
