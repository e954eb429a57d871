"""/metrics, read by Prometheus' own parser, and held against the table of docs/api.md."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvloop
from prometheus_client.parser import text_string_to_metric_families

from tests.unit.api.scripted import STATS, ScriptedEngine, Serve, plan_of
from tpid import __version__
from tpid.device import DeviceId
from tpid.engine.tally import Tally
from tpid.engine.weight_use import WeightUse

DOCUMENT = Path(__file__).parents[3] / "docs" / "api.md"


def scraped(serve: Serve) -> dict[str, Any]:
    """Families by name."""

    async def main() -> tuple[int, str]:
        async with serve() as api:
            return await api.text("/metrics")

    status, text = uvloop.run(main())
    assert status == 200
    return {family.name: family for family in text_string_to_metric_families(text)}


def values(family: Any, label: str) -> dict[str, float]:
    return {sample.labels[label]: sample.value for sample in family.samples}


def test_names_and_types_are_those_of_the_document(serve: Serve) -> None:
    told = re.findall(r"^\| `(tpid_\w+)` \| (\w+) \|", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    families = {
        f"{name}_total" if family.type == "counter" else name: family.type
        for name, family in scraped(serve).items()
        if name.startswith("tpid_")
    }
    assert families == dict(told)


def test_what_the_engine_has_done(serve: Serve, engine: ScriptedEngine) -> None:
    tally = Tally()
    tally.requests.update(answered=3, failed=1)
    tally.answer(STATS, is_first=True)
    tally.answer(replace(STATS, completion_tokens=1), is_first=False)
    engine.status_ = replace(
        engine.status_,
        tally=tally,
        busy=True,
        waiting_requests=2,
        plan=plan_of("m"),
        weights={DeviceId("ab"): WeightUse(resident_bytes=100, streamed_bytes=50)},
        streamed_bytes=500,
    )
    families = scraped(serve)
    assert values(families["tpid_requests"], "outcome") == {"answered": 3, "refused": 0, "failed": 1, "cancelled": 0}
    one_value = {name: family.samples[0].value for name, family in families.items() if len(family.samples) == 1}
    assert one_value["tpid_requests_running"] == 1
    assert one_value["tpid_requests_waiting"] == 2
    assert one_value["tpid_prompt_tokens"] == 7
    assert one_value["tpid_cached_prompt_tokens"] == 2
    assert one_value["tpid_completion_tokens"] == 4
    assert one_value["tpid_streamed_bytes"] == 500
    assert values(families["tpid_weights_resident_bytes"], "device") == {"ab": 100}
    assert values(families["tpid_weights_streamed_bytes"], "device") == {"ab": 50}
    assert families["tpid_info"].samples[0].labels == {"version": __version__}
    assert one_value["process_resident_memory_bytes"] > 1e6


def test_histograms(serve: Serve, engine: ScriptedEngine) -> None:
    tally = Tally()
    for queue_s in (0.0, 0.05, 0.051, 1000.0):
        tally.answer(replace(STATS, queue_s=queue_s), is_first=True)
    engine.status_ = replace(engine.status_, tally=tally)
    samples = scraped(serve)["tpid_queue_seconds"].samples
    buckets = {sample.labels["le"]: sample.value for sample in samples if sample.name.endswith("_bucket")}
    assert list(buckets.values()) == sorted(buckets.values())
    assert (buckets["0.05"], buckets["0.1"], buckets["300.0"], buckets["+Inf"]) == (2, 3, 3, 4)
    rest = {sample.name.rpartition("_")[2]: sample.value for sample in samples if not sample.name.endswith("_bucket")}
    assert rest == {"count": 4, "sum": 1000.101}
