from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.comm.frames import PREFIX, decode_header, encode_message
from tpid.comm.messages import (
    CONTROL_MESSAGES,
    KIND_OF,
    TENSOR_KINDS,
    Abort,
    Bye,
    Campaign,
    Deny,
    Device,
    DiskUse,
    Failed,
    Grant,
    Hello,
    Kind,
    Load,
    Loaded,
    Message,
    Ping,
    Pong,
    Refuse,
    Release,
    Renew,
    Unload,
)
from tpid.device import DeviceId, DeviceProfile, Role, device_name
from tpid.errors import LocalProtocolError, RemoteProtocolError

counters = st.integers(0, 2**63 - 1)
texts = st.text(st.characters(codec="utf-8"), max_size=50)
names = st.text("abc äöü-1", min_size=1, max_size=30)
clocks = st.floats(0, 1e9)
rates = st.just(0.0) | st.floats(1, 1e18)
profiles = st.builds(
    DeviceProfile,
    id=st.integers(0, 2**256 - 1).map(lambda number: DeviceId(f"{number:064x}")),
    name=names.map(device_name).filter(bool),
    role=st.sampled_from(list(Role)),
    version=names,
    ram_bytes=counters,
    budget_bytes=counters,
    disk_free_bytes=counters,
    threads=st.integers(1, 1000),
    read_bytes_s=rates,
    backend=names,
    packs=st.lists(names, max_size=5).map(tuple),
    disk_bytes_s=rates,
    matmul_flops_s=rates,
)
plans = st.dictionaries(texts, st.recursive(st.none() | counters | texts, st.lists, max_leaves=9), max_size=5)
messages = st.one_of(
    st.builds(Hello, cluster=names, profile=profiles),
    st.builds(Refuse, code=texts, reason=texts),
    st.builds(Bye, reason=texts),
    st.builds(Ping, sent_s=clocks),
    st.builds(Pong, sent_s=clocks),
    st.builds(Device, profile=profiles),
    st.builds(Campaign, term=counters, reason=st.sampled_from(["idle", "prompt"])),
    st.builds(Grant, term=counters, ttl_s=st.floats(0.001, 600)),
    st.builds(Deny, term=counters, holder=st.none() | texts, highest_term=counters),
    st.builds(Renew, term=counters),
    st.builds(Release, term=counters),
    st.builds(Load, term=counters, plan=plans),
    st.builds(Loaded, term=counters, held_bytes=counters, window_bytes=counters, streamed_bytes=counters),
    st.builds(Unload, term=counters),
    st.builds(Failed, term=counters, code=texts, reason=texts),
    st.builds(DiskUse, term=counters, disk_bytes_s=rates, stall_s=clocks),
    st.builds(Abort, term=counters, pass_id=counters),
)


@given(messages)
def test_round_trip(message: Message) -> None:
    frame = encode_message(message)
    assert decode_header(KIND_OF[type(message)], frame[PREFIX.size :]) == message


def test_every_kind_is_a_message_or_a_tensor() -> None:
    assert set(CONTROL_MESSAGES) | TENSOR_KINDS == set(Kind)
    assert not set(CONTROL_MESSAGES) & TENSOR_KINDS


@given(st.sampled_from(list(Kind)), st.binary(max_size=200))
def test_any_bytes_give_a_header_or_one_error(kind: Kind, data: bytes) -> None:
    with suppress(RemoteProtocolError):
        decode_header(kind, data)


nested = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | texts | st.binary(max_size=9),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(texts, inner, max_size=5),
)


@given(st.sampled_from(list(Kind)), nested)
def test_any_msgpack_gives_a_header_or_one_error(kind: Kind, value: object) -> None:
    with suppress(RemoteProtocolError):
        decode_header(kind, msgpack.packb(value))


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",  # an array of 4 G items
        b"\xdd\x00\x04\x00\x00" * 1000,  # arrays in arrays, each announcing 256 Ki
        b"\xdf\xff\xff\xff\xff",  # a map of 4 G items
        b"\xc6\xff\xff\xff\xff",  # 4 GB of bytes
        b"\x91" * 100_000,  # nested beyond any stack
        b"\xd4\xff\x00",  # an extension type
        b"\x81\x01\x02",  # a key that is no text
        b"\xa1\xff",  # no UTF-8
    ],
)
def test_msgpack_bombs(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_header(Kind.LOAD, data)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (Kind.RENEW, {"term": -1}),
        (Kind.RENEW, {"term": 2**63}),
        (Kind.RENEW, {"term": "1"}),
        (Kind.RENEW, {"term": True}),
        (Kind.RENEW, {}),
        (Kind.RENEW, {"term": 1, "more": 2}),
        (Kind.RENEW, [1]),
        (Kind.PING, {"sent_s": float("nan")}),
        (Kind.GRANT, {"term": 1, "ttl_s": 0}),
        (Kind.GRANT, {"term": 1, "ttl_s": float("inf")}),
        (Kind.GRANT, {"term": 1, "ttl_s": 601}),
        (Kind.CAMPAIGN, {"term": 1, "reason": "power"}),
        (Kind.LOADED, {"term": 1, "held_bytes": -1}),
    ],
)
def test_wrong_fields_are_refused(kind: Kind, fields: object) -> None:
    with pytest.raises(RemoteProtocolError, match=kind.name):
        decode_header(kind, msgpack.packb(fields))


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x" * 64},
        {"id": "0" * 31},
        {"name": ""},
        {"name": "a\x1b[31m"},
        {"name": "n" * 256},
        {"role": "boss"},
        {"ram_bytes": -1},
        {"budget_bytes": 2**63},
        {"threads": -1},
        {"read_bytes_s": float("nan")},
        {"read_bytes_s": float("inf")},
        {"read_bytes_s": -1.0},
        {"disk_bytes_s": -1.0},
        {"disk_bytes_s": float("nan")},
        {"matmul_flops_s": float("inf")},
        {"packs": ["p"] * 1001},
        {"packs": [""]},
    ],
)
def test_implausible_profiles_are_refused(hello_of: Callable[[int], Hello], change: dict[str, Any]) -> None:
    fields = hello_of(1).model_dump()
    assert decode_header(Kind.HELLO, msgpack.packb(fields)) == hello_of(1)
    fields["profile"] |= change
    with pytest.raises(RemoteProtocolError, match="HELLO"):
        decode_header(Kind.HELLO, msgpack.packb(fields))


def test_texts_are_one_short_line() -> None:
    assert Bye(reason="a\nb\x00c" + "d" * 3000).reason == ("a b c" + "d" * 3000)[:2000]


def test_our_own_message_that_fits_no_frame() -> None:
    with pytest.raises(LocalProtocolError, match="larger than a header"):
        encode_message(Load(term=1, plan={"x": "y" * 300_000}))
    with pytest.raises(LocalProtocolError, match="msgpack"):
        encode_message(Load(term=1, plan={"x": object()}))


def test_the_error_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(RemoteProtocolError) as caught:
        decode_header(Kind.RENEW, msgpack.packb({"term": "t" * 50_000, "k" * 50_000: 1}))
    assert len(str(caught.value)) < 300


def test_a_profile_may_change_its_name(profile_of: Callable[[int], DeviceProfile]) -> None:
    changed = replace(profile_of(1), name="other")
    assert Device(profile=changed).profile.name == "other"


@pytest.mark.parametrize(("told", "taken"), [(1e-300, 0.0), (0.99, 0.0), (0.0, 0.0), (1.0, 1.0), (9e18, 1e18)])
def test_rates_that_no_device_has_are_taken_as_none_or_the_most(
    profile_of: Callable[[int], DeviceProfile], told: float, taken: float
) -> None:
    profile = replace(profile_of(1), read_bytes_s=told, disk_bytes_s=told, matmul_flops_s=told)
    header = encode_message(Hello(cluster="home", profile=profile))
    hello = decode_header(Kind.HELLO, header[12:])
    assert isinstance(hello, Hello)
    assert {hello.profile.read_bytes_s, hello.profile.disk_bytes_s, hello.profile.matmul_flops_s} == {taken}
