import copy
from collections.abc import Callable
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.device import DeviceId, DeviceProfile
from tpid.errors import RemoteProtocolError
from tpid.pack.geometry import Share, UnitRange
from tpid.pack.manifest import PackId
from tpid.plan.footprint import Workload
from tpid.plan.partition import PlanRequest, make_plan
from tpid.plan.plan import LeftOut, Plan, Rank, plan_from_wire, plan_to_wire

PLAN = Plan(
    term=5,
    pack=PackId("ab" * 32),
    model="smollm2-135m",
    ranks=(
        Rank(DeviceId("1" * 32), "desk", Share(UnitRange(0, 2), UnitRange(0, 30)), 10**9),
        Rank(DeviceId("2" * 32), "shelf", Share(UnitRange(2, 3), UnitRange(30, 30)), 10**8),
        Rank(DeviceId("3" * 32), "Küche", Share(UnitRange(3, 3), UnitRange(30, 48)), 10**8),
    ),
    left_out=(LeftOut(DeviceId("4" * 32), "phone", "its memory budget of 0.10 GB is below the 0.35 GB of any share"),),
    context_tokens=4096,
    max_pass_tokens=128,
    n_slots=1,
    wire_dtype="fp32",
    direct_tokens=4,
)


def through_msgpack(value: Any) -> Any:
    return msgpack.unpackb(msgpack.packb(value))


def test_a_plan_comes_back_as_it_was() -> None:
    assert plan_from_wire(through_msgpack(plan_to_wire(PLAN))) == PLAN


def test_ranks_are_found_by_device() -> None:
    assert PLAN.world_size == 3
    assert [PLAN.rank_of(DeviceId(n * 32)) for n in "1234"] == [0, 1, 2, None]


@settings(deadline=None)
@given(st.lists(st.floats(1e8, 1e11), min_size=1, max_size=12), st.integers(1, 40), st.integers(1, 90))
def test_every_plan_that_is_made_is_accepted(
    device: Callable[..., DeviceProfile],
    workload: Callable[..., Workload],
    speeds: list[float],
    n_attn_units: int,
    n_ffn_units: int,
) -> None:
    work = workload(n_attn_units=n_attn_units, n_ffn_units=n_ffn_units)
    devices = [device(i, read_bytes_s=speed) for i, speed in enumerate(speeds)]
    request = PlanRequest(2**62, PackId("ab" * 32), "a", work, "int8")
    plan = make_plan(request, devices[0], [*devices[1:], device(99, packs=())])
    assert plan_from_wire(through_msgpack(plan_to_wire(plan))) == plan


def changed(path: str, value: Any) -> dict[str, Any]:
    wire = copy.deepcopy(plan_to_wire(PLAN))
    *parents, last = [int(key) if key.isdigit() else key for key in path.split(".")]
    place: Any = wire
    for key in parents:
        place = place[key]
    place[last] = value
    return wire


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("ranks", [], "number of ranks is 0"),
        ("ranks", None, "ranks: "),
        ("ranks", [1], "ranks.0: "),
        ("ranks.0.share", None, "ranks.0.share: "),
        ("ranks.0.share.attn.start", 1, "rank 0 has attn units 1 to 2 where the rank before ends at 0"),
        ("ranks.0.share.attn.start", -1, "rank 0 has attn units -1 to 2"),
        ("ranks.0.share.attn.stop", -1, "rank 0 has attn units 0 to -1"),
        ("ranks.0.share.attn.stop", 1, "rank 1 has attn units 2 to 3 where the rank before ends at 1"),
        ("ranks.1.share.ffn.start", 31, "rank 1 has ffn units 31 to 30"),
        ("ranks.1.share.ffn.stop", 29, "rank 1 has ffn units 30 to 29"),
        ("ranks.2.share.ffn.stop", 2**40, "rank 2 has ffn units 30 to 1099511627776"),
        ("ranks.2.share.ffn.stop", 48.5, "ranks.2.share.ffn.stop: "),
        ("ranks.2.share.ffn", {"start": 0, "stop": 0}, "rank 2 has ffn units 0 to 0"),
        ("ranks.1.device", "1" * 32, "names a device twice"),
        ("ranks.1.device", "4" * 32, "names a device twice"),
        ("ranks.1.device", "", "a text in it"),
        ("ranks.1.name", "a\nb", "a text in it"),
        ("ranks.1.name", "x" * 5000, "a text in it"),
        ("ranks.1.memory_bytes", -1, "memory of rank 1 is -1"),
        ("left_out.0.reason", "\x1b[2J", "a text in it"),
        ("left_out", None, "left_out: "),
        ("term", -1, "term is -1"),
        ("term", 2**63, "term is 9223372036854775808"),
        ("term", "x", "term: "),
        ("pack", "", "a text in it"),
        ("pack", None, "pack: "),
        ("context_tokens", 0, "context_tokens is 0"),
        ("context_tokens", 2**40, "context_tokens is"),
        ("max_pass_tokens", 0, "max_pass_tokens is 0"),
        ("max_pass_tokens", 2**40, "max_pass_tokens is"),
        ("n_slots", 0, "n_slots is 0"),
        ("n_slots", 10**9, "n_slots is"),
        ("wire_dtype", None, "wire_dtype: "),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(path: str, value: Any, message: str) -> None:
    with pytest.raises(RemoteProtocolError, match="sent a plan that is not sound") as caught:
        plan_from_wire(changed(path, value))
    assert message in caught.value.message
    assert len(caught.value.message) < 1000


def test_too_many_ranks_and_plans_without_units_are_refused() -> None:
    wire = plan_to_wire(PLAN)
    rank = wire["ranks"][2]
    wire["ranks"] += [
        rank | {"device": f"{i:032}", "share": {"attn": {"start": 3, "stop": 3}, "ffn": {"start": 48, "stop": 48}}}
        for i in range(2000)
    ]
    with pytest.raises(RemoteProtocolError, match="number of ranks is 2003"):
        plan_from_wire(wire)
    nothing = {"attn": {"start": 0, "stop": 0}, "ffn": {"start": 0, "stop": 0}}
    with pytest.raises(RemoteProtocolError, match="no rank has attn units"):
        plan_from_wire(plan_to_wire(PLAN) | {"ranks": [rank | {"share": nothing}]})


scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(max_size=20), st.binary(max_size=9)
)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
)


def plan_or_refusal(wire: Any) -> None:
    try:
        plan = plan_from_wire(wire)
    except RemoteProtocolError:
        return
    assert plan_from_wire(through_msgpack(plan_to_wire(plan))) == plan
    assert plan.world_size >= 1
    assert plan.ranks[0].share.attn.start == 0


@given(anything)
def test_anything_gives_a_plan_or_one_error(wire: Any) -> None:
    plan_or_refusal(wire)


@settings(max_examples=300)
@given(st.data())
def test_any_changed_value_gives_a_plan_or_one_error(data: st.DataObject) -> None:
    place: Any = plan_to_wire(PLAN)
    path: list[str] = []
    while isinstance(place, dict | list) and place and (not path or data.draw(st.integers(0, 3))):
        keys = list(place) if isinstance(place, dict) else range(len(place))
        path.append(str(data.draw(st.sampled_from(keys))))
        place = place[int(path[-1])] if isinstance(place, list) else place[path[-1]]
    plan_or_refusal(changed(".".join(path), data.draw(anything)))


@settings(max_examples=300)
@given(st.data())
def test_any_changed_byte_gives_a_plan_or_one_error(data: st.DataObject) -> None:
    packed = bytearray(msgpack.packb(plan_to_wire(PLAN)))
    for _ in range(data.draw(st.integers(1, 3))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    try:
        wire = msgpack.unpackb(bytes(packed))
    except (ValueError, msgpack.UnpackException):
        return
    plan_or_refusal(wire)
