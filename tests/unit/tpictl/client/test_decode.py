import io
from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from tpictl.client.answers import Chunk, Holding, LastAnswer, Plan, Status, WeightUse
from tpictl.client.decode import decode
from tpictl.view.dashboard import dashboard
from tpid.engine.generation import GenerationStats
from tpid.engine.weight_use import WeightUse as RealUse
from tpid.engine.worker import Holding as RealHolding
from tpid.errors import RemoteProtocolError

ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


def test_the_status_of_the_real_dataclasses(status_json: dict[str, Any]) -> None:
    status = decode(Status, status_json)
    assert status.cluster.devices[1].profile.name == "desktop"
    assert status.cluster.devices[1].rtt_s == 0.00018
    assert status.plan is not None
    assert status.plan.ranks[1].share.attn.n_units == 2
    assert (status.plan.n_attn_units, status.plan.n_ffn_units) == (3, 48)
    assert status.last == LastAnswer(0.431, 23.8)


def test_what_a_worker_holds_and_the_stats_of_an_answer() -> None:
    holding = decode(Holding, asdict(RealHolding("smollm2-135m", 7, 1, "laptop", RealUse(4096, 2, 3, 4.5, 0.1))))
    assert holding == Holding("smollm2-135m", 1, "laptop", WeightUse(4096, 2, 3, 4.5, 0.1))
    stats = GenerationStats(34, 20, 3, 0.431, 0.084)
    sent = asdict(stats) | {"tpot_s": stats.tpot_s, "tokens_s": stats.tokens_s}
    assert decode(LastAnswer, sent).tokens_s == pytest.approx(23.81, rel=1e-3)


def test_names_are_made_safe_for_the_terminal(plan_json: dict[str, Any]) -> None:
    plan_json["ranks"][0]["name"] = "lap\x1b[2Jtop"
    assert decode(Plan, plan_json).ranks[0].name == "lap�[2Jtop"


def test_the_text_of_an_answer_stays_as_it_is() -> None:
    chunk = decode(Chunk, {"choices": [{"delta": {"content": "a\nb\x1b"}}]})
    assert chunk.choices[0].delta.content == "a\nb\x1b"


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"busy": 1}, "busy"),
        ({"waiting_requests": True}, "waiting_requests"),
        ({"waiting_requests": 1.5}, "waiting_requests"),
        ({"plan": []}, "plan"),
        ({"last": {"ttft_s": 10**400, "tokens_s": None}}, "last.ttft_s"),
        ({"last": {"ttft_s": float("nan"), "tokens_s": None}}, "last.ttft_s"),
        ({"cluster": {}}, "cluster.cluster"),
    ],
)
def test_the_field_that_is_wrong_is_named(status_json: dict[str, Any], change: dict[str, Any], where: str) -> None:
    with pytest.raises(RemoteProtocolError, match=f"no sound {where}\\b"):
        decode(Status, status_json | change)


def test_the_item_that_is_wrong_is_named(plan_json: dict[str, Any]) -> None:
    del plan_json["ranks"][1]["share"]["ffn"]["stop"]
    with pytest.raises(RemoteProtocolError, match=r"ranks\[1\]\.share\.ffn\.stop"):
        decode(Plan, plan_json)


def _places(data: Any, place: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where the values of a JSON are."""
    inside = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place, *(found for key, item in inside for found in _places(item, (*place, key)))]


def _with(data: Any, place: tuple[Any, ...], value: object) -> Any:
    if not place:
        return value
    changed = dict(data) if isinstance(data, dict) else list(data)
    changed[place[0]] = _with(data[place[0]], place[1:], value)
    return changed


@given(data=st.data(), value=ANY_JSON)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_value_at_any_place_gives_a_status_or_one_typed_error(
    status_json: dict[str, Any], data: st.DataObject, value: object
) -> None:
    place = data.draw(st.sampled_from(_places(status_json)))
    try:
        status = decode(Status, _with(status_json, place, value))
    except RemoteProtocolError:
        return
    Console(file=io.StringIO(), width=80).print(dashboard(status))
