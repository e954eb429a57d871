from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.comm.frames import encode_tensor_head
from tpid.comm.heads import Heads
from tpid.comm.messages import Kind
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import WireDtype

counters = st.integers(0, 2**63 - 1)
indices = st.integers(0, 2**31 - 1)


@given(
    st.sampled_from([Kind.PARTIAL, Kind.SUM]),
    st.builds(TensorHeader, counters, counters, indices, indices, st.sampled_from(list(WireDtype))),
    st.integers(0, 2**32 - 1),
    st.lists(st.integers(0, 700) | indices, min_size=1, max_size=9),
)
def test_a_head_is_what_the_codec_makes(kind: Kind, first: TensorHeader, payload_bytes: int, steps: list[int]) -> None:
    heads = Heads(kind, first, payload_bytes)
    for step in steps:
        header = replace(first, step=step)
        assert heads(step) == encode_tensor_head(kind, header, payload_bytes)


@pytest.mark.parametrize("step", [0, 127, 128, 255, 256, 511, 512, 65535, 65536])
def test_where_msgpack_needs_more_bytes(step: int) -> None:
    heads = Heads(Kind.SUM, TensorHeader(1, 2, 0, 3, WireDtype.INT8), 4)
    assert heads(step) == encode_tensor_head(Kind.SUM, TensorHeader(1, 2, step, 3, WireDtype.INT8), 4)
