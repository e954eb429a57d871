"""A plan as a coordinator sends it. Written as JSON here, which is easier to change than msgpack."""

import json

import msgpack

from tests.fuzz.stretch import stretched
from tpid.comm.frames import MAX_HEADER_BYTES, decode_header
from tpid.comm.messages import Kind, Load
from tpid.errors import RemoteProtocolError
from tpid.pack.geometry import Half
from tpid.plan.plan import plan_from_wire, plan_to_wire


def fuzz(data: bytes) -> None:
    try:
        packed = msgpack.packb({"term": 3, "plan": json.loads(stretched(data))})
    except (ValueError, RecursionError, OverflowError):
        return
    if len(packed) > MAX_HEADER_BYTES:
        return
    try:
        load = decode_header(Kind.LOAD, packed)
        assert isinstance(load, Load)
        plan = plan_from_wire(load.plan)
    except RemoteProtocolError as error:
        assert len(str(error)) < 10_000
        return
    assert plan_from_wire(plan_to_wire(plan)) == plan
    for half in Half:
        assert sum(len(rank.share.of(half)) for rank in plan.ranks) > 0
