import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.comm.frames import PREFIX, decode_header, encode_tensor_head
from tpid.comm.messages import Kind
from tpid.comm.tensors import MAX_SEGMENTS, Segment, StartHeader, TensorHeader, tensor_header
from tpid.comm.wire_dtype import WireDtype
from tpid.errors import RemoteProtocolError

counters = st.integers(0, 2**63 - 1)
dtypes = st.sampled_from(list(WireDtype))
segments = st.builds(Segment, st.integers(0, 2**31 - 1), st.integers(0, 2**30), st.integers(1, 2**20))
starts = st.builds(StartHeader, counters, counters, st.lists(segments, min_size=1, max_size=9).map(tuple), dtypes)
partials = st.builds(TensorHeader, counters, counters, st.integers(0, 2**31 - 1), st.integers(0, 2**31 - 1), dtypes)


@given(starts)
def test_start_round_trip(header: StartHeader) -> None:
    assert decode_header(Kind.START, encode_tensor_head(Kind.START, header, 5)[PREFIX.size :]) == header


@given(partials, st.sampled_from([Kind.PARTIAL, Kind.SUM]))
def test_partial_and_sum_round_trip(header: TensorHeader, kind: Kind) -> None:
    assert decode_header(kind, encode_tensor_head(kind, header, 5)[PREFIX.size :]) == header


def test_tokens_of_all_segments() -> None:
    header = StartHeader(1, 2, (Segment(0, 0, 3), Segment(1, 7, 4)), WireDtype.FP32)
    assert header.n_tokens == 7


@pytest.mark.parametrize(
    "fields",
    [
        None,
        {},
        [],
        [1, 2, 0],
        [1, 2, 0, []],
        [1, 2, 0, 5],
        [1, 2, 0, [[0, 0]]],
        [1, 2, 0, [[0, 0, 0]]],
        [1, 2, 0, [[0, -1, 1]]],
        [1, 2, 0, [[0, 2**31 - 1, 2]]],
        [1, 2, 0, [[0, 0, 2**30], [1, 0, 2**30]]],
        [1, 2, 0, [[0, 0, 1]] * (MAX_SEGMENTS + 1)],
        [1, 2, 3, [[0, 0, 1]]],
        [-1, 2, 0, [[0, 0, 1]]],
        [1, 2**63, 0, [[0, 0, 1]]],
        [1, 2.0, 0, [[0, 0, 1]]],
        [True, 2, 0, [[0, 0, 1]]],
    ],
)
def test_wrong_start_headers(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        tensor_header(Kind.START, fields)


@pytest.mark.parametrize("position", range(5))
@pytest.mark.parametrize("value", [-1, 2**63, 1.0, True, None, "1", b"1", []])
def test_wrong_fields_of_partials(position: int, value: object) -> None:
    fields: list[object] = [1, 2, 3, 4, 1]
    assert tensor_header(Kind.PARTIAL, fields) == TensorHeader(1, 2, 3, 4, WireDtype.BF16)
    fields[position] = value
    with pytest.raises(RemoteProtocolError):
        tensor_header(Kind.PARTIAL, fields)


@pytest.mark.parametrize(
    "fields", [None, 1, {}, [], [1, 2, 3, 4], [1, 2, 3, 4, 1, 1], [1, 2, 3, 4, 3], [1, 2, 2**31, 4, 1]]
)
def test_wrong_shapes_of_partials(fields: object) -> None:
    with pytest.raises(RemoteProtocolError):
        tensor_header(Kind.SUM, fields)
