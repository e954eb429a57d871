from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.comm.frames import (
    MAX_HEADER_BYTES,
    MAX_OPENING_HEADER_BYTES,
    PREFIX,
    STAGING_BYTES,
    ExpectedFrame,
    FrameReader,
    Header,
    encode_message,
    encode_tensor_head,
)
from tpid.comm.messages import Bye, Failed, Hello, Kind, Load, Ping, Renew
from tpid.comm.tensors import Segment, StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError

MAX_PAYLOAD_BYTES = 200_000


@dataclass
class Sink:
    """Keeps what comes; skips the payloads of terms in `skipped`."""

    frames: list[tuple[Kind, Header, bytes | None]] = field(default_factory=list)
    asked: list[int] = field(default_factory=list)
    skipped: frozenset[int] = frozenset()
    slack: int = 0

    def payload_buffer(self, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int) -> memoryview | None:
        self.asked.append(size_bytes)
        return None if header.term in self.skipped else memoryview(bytearray(size_bytes + self.slack))

    def frame_received(self, kind: Kind, header: Header, payload: memoryview | None) -> None:
        self.frames.append((kind, header, None if payload is None else bytes(payload)))


def reader_of(sink: Sink, *, opening: bool = False) -> FrameReader:
    reader = FrameReader(sink, peer_address="127.0.0.1:7", max_payload_bytes=MAX_PAYLOAD_BYTES)
    reader.opening = opening
    return reader


def feed(reader: FrameReader, data: bytes) -> None:
    """As a transport does: never more than the buffer takes."""
    while data:
        buffer = reader.get_buffer()
        assert len(buffer) > 0
        n_bytes = min(len(buffer), len(data))
        buffer[:n_bytes] = data[:n_bytes]
        reader.buffer_updated(n_bytes)
        data = data[n_bytes:]


def tensor_frame(kind: Kind, header: StartHeader | TensorHeader, payload: bytes) -> bytes:
    return encode_tensor_head(kind, header, len(payload)) + payload


Frame = tuple[Kind, Header, bytes | None]
terms = st.integers(0, 3)
controls = st.one_of(
    st.builds(Renew, term=terms).map(lambda message: (Kind.RENEW, message, None)),
    st.integers(0, 90_000).map(lambda size: (Kind.LOAD, Load(term=1, plan={"x": "y" * size}), None)),
    st.just((Kind.PING, Ping(sent_s=1.5), None)),
)
payloads = st.builds(
    lambda seed, size: (bytes(range(1 + seed % 251)) * (size // (1 + seed % 251) + 1))[:size],
    st.integers(0, 250),
    st.integers(1, 500) | st.integers(1, 100_000),
)
tensors = st.one_of(
    st.tuples(
        st.sampled_from([Kind.PARTIAL, Kind.SUM]),
        st.builds(TensorHeader, terms, terms, terms, st.integers(1, 9), st.sampled_from(list(WireDtype))),
        payloads,
    ),
    st.builds(TensorHeader, terms, terms, terms, st.just(0), st.just(WireDtype.BF16)).map(
        lambda header: (Kind.PARTIAL, header, None)
    ),
    st.tuples(
        st.just(Kind.START),
        st.builds(
            lambda term, n: StartHeader(term, 5, tuple(Segment(i, 2**30, 2) for i in range(n)), WireDtype.FP32),
            terms,
            st.sampled_from([1, 3, 4000]),  # the last is a header larger than the staging buffer
        ),
        payloads,
    ),
)
streams = st.lists(controls | tensors, max_size=8)


def to_bytes(frame: Frame) -> bytes:
    kind, header, payload = frame
    if isinstance(header, StartHeader | TensorHeader):
        return tensor_frame(kind, header, payload or b"")
    return encode_message(header)


@settings(deadline=None)
@given(streams, st.randoms(use_true_random=False), st.integers(0, 64))
def test_any_split_gives_the_same_frames(frames: list[Frame], random: object, slack: int) -> None:
    data = b"".join(to_bytes(frame) for frame in frames)
    sink = Sink(slack=slack)
    reader = reader_of(sink)
    while data:
        size = random.choice([1, 2, 11, 12, 13, 100, STAGING_BYTES, 200_000])  # type: ignore[attr-defined]
        feed(reader, data[:size])
        data = data[size:]
    assert sink.frames == frames
    assert not reader.in_frame


@settings(deadline=None, max_examples=30)
@given(st.lists(controls | tensors, min_size=1, max_size=3))
def test_byte_by_byte(frames: list[Frame]) -> None:
    data = b"".join(to_bytes(frame) for frame in frames)[:150_000]
    whole, single = Sink(), Sink()
    feed(reader_of(whole), data)
    reader = reader_of(single)
    for i in range(len(data)):
        feed(reader, data[i : i + 1])
    assert single.frames == whole.frames
    assert single.asked == whole.asked


@given(streams, st.frozensets(terms))
@settings(deadline=None)
def test_skipped_frames_leave_the_others_whole(frames: list[Frame], skipped: frozenset[int]) -> None:
    sink = Sink(skipped=skipped)
    feed(reader_of(sink), b"".join(to_bytes(frame) for frame in frames))
    assert sink.frames == [
        frame for frame in frames if frame[2] is None or getattr(frame[1], "term", None) not in skipped
    ]


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_never_do_harm(data: bytes, opening: bool) -> None:
    with suppress(RemoteProtocolError, VersionMismatchError):
        feed(reader_of(Sink(), opening=opening), data)


@settings(deadline=None)
@given(st.integers(0, 255), st.integers(0, 400), st.integers(0, 300_000), st.binary(max_size=400), st.booleans())
def test_random_frames_behind_a_true_prefix(
    kind: int, header_bytes: int, payload_bytes: int, rest: bytes, opening: bool
) -> None:
    sink = Sink()
    with suppress(RemoteProtocolError, VersionMismatchError):
        feed(reader_of(sink, opening=opening), PREFIX.pack(b"TP", 2, kind, header_bytes, payload_bytes) + rest)
    assert all(size <= MAX_PAYLOAD_BYTES for size in sink.asked)


@settings(deadline=None)
@given(streams.filter(bool), st.data())
def test_a_stream_with_one_wrong_byte(frames: list[Frame], data: st.DataObject) -> None:
    stream = bytearray(b"".join(to_bytes(frame) for frame in frames))
    position = data.draw(st.integers(0, min(len(stream), 60) - 1))
    stream[position] ^= data.draw(st.integers(1, 255))
    with suppress(RemoteProtocolError, VersionMismatchError):
        feed(reader_of(Sink()), bytes(stream))


@pytest.mark.parametrize(
    ("kind", "header_bytes", "payload_bytes"),
    [
        (Kind.LOAD, MAX_HEADER_BYTES + 1, 0),
        (Kind.LOAD, 2**32 - 1, 0),
        (Kind.PARTIAL, 20, MAX_PAYLOAD_BYTES + 1),
        (Kind.START, 20, 2**32 - 1),
        (Kind.RENEW, 8, 1),
    ],
)
def test_lengths_are_refused_before_anything_else_comes(kind: Kind, header_bytes: int, payload_bytes: int) -> None:
    sink = Sink()
    reader = reader_of(sink)
    with pytest.raises(RemoteProtocolError, match=r"bytes"):
        feed(reader, PREFIX.pack(b"TP", 2, kind, header_bytes, payload_bytes))
    assert sink.asked == []
    assert len(reader.get_buffer()) <= STAGING_BYTES


def test_before_the_hello_little_is_allowed(hello_of: Callable[[int], Hello]) -> None:
    sink = Sink()
    feed(reader_of(sink, opening=True), encode_message(hello_of(1)) + encode_message(Bye(reason="x")))
    assert [kind for kind, _, _ in sink.frames] == [Kind.HELLO, Kind.BYE]
    for frame in (
        encode_message(Renew(term=1)),
        encode_message(Ping(sent_s=1)),
        tensor_frame(Kind.PARTIAL, TensorHeader(1, 1, 0, 1, WireDtype.FP32), b"1234"),
        PREFIX.pack(b"TP", 2, Kind.HELLO, MAX_OPENING_HEADER_BYTES + 1, 0),
        PREFIX.pack(b"TP", 2, Kind.HELLO, 5, 5),
    ):
        with pytest.raises(RemoteProtocolError):
            feed(reader_of(Sink(), opening=True), frame)


@pytest.mark.parametrize(("version", "where"), [(3, "this device"), (255, "this device"), (0, "that device")])
def test_another_version_says_who_is_to_upgrade(version: int, where: str) -> None:
    with pytest.raises(VersionMismatchError, match=r"127\.0\.0\.1:7") as caught:
        feed(reader_of(Sink(), opening=True), PREFIX.pack(b"TP", version, 99, 2**32 - 1, 2**32 - 1))
    assert f"version {version} " in caught.value.message
    assert caught.value.hint == f"Upgrade tpid on {where}."


def test_the_version_cannot_change_in_mid_stream() -> None:
    with pytest.raises(RemoteProtocolError, match="mid-stream"):
        feed(reader_of(Sink()), PREFIX.pack(b"TP", 3, Kind.PING, 0, 0))


@pytest.mark.parametrize(("n_tokens", "payload"), [(0, b"1234"), (1, b"")])
def test_tokens_and_payload_must_agree(n_tokens: int, payload: bytes) -> None:
    frame = tensor_frame(Kind.PARTIAL, TensorHeader(1, 1, 0, n_tokens, WireDtype.FP32), payload)
    with pytest.raises(RemoteProtocolError, match="tokens"):
        feed(reader_of(Sink()), frame)


def test_a_paused_reader_holds_back_what_came_already() -> None:
    first, second = Renew(term=1), Failed(term=2, code="x", reason="y")

    class Pausing(Sink):
        def frame_received(self, kind: Kind, header: Header, payload: memoryview | None) -> None:
            super().frame_received(kind, header, payload)
            reader.pause()

    sink = Pausing()
    reader = reader_of(sink)
    feed(reader, encode_message(first) + encode_message(second))
    assert [header for _, header, _ in sink.frames] == [first]
    reader.resume()
    reader.buffer_updated(0)
    assert [header for _, header, _ in sink.frames] == [first, second]


def test_a_stopped_reader_throws_away() -> None:
    sink = Sink()
    reader = reader_of(sink)
    feed(reader, tensor_frame(Kind.PARTIAL, TensorHeader(1, 1, 0, 1, WireDtype.FP32), b"x" * 90_000)[:50_000])
    assert reader.in_frame
    reader.stop()
    feed(reader, b"y" * 100_000)
    assert sink.frames == []


def test_a_payload_goes_straight_to_its_buffer() -> None:
    target = memoryview(bytearray(100_000))

    class Direct(Sink):
        def payload_buffer(self, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int) -> memoryview:
            return target

    reader = reader_of(Direct())
    frame = tensor_frame(Kind.SUM, TensorHeader(1, 1, 0, 1, WireDtype.FP32), b"x" * 90_000)
    feed(reader, frame[:1000])
    buffer = reader.get_buffer()
    buffer[:1] = b"z"
    position = 1000 - (len(frame) - 90_000)
    assert target[position] == ord("z")
    assert len(buffer) == 90_000 - position


def test_too_small_a_buffer_is_our_own_fault() -> None:
    reader = reader_of(Sink(slack=-1))
    with pytest.raises(LocalProtocolError, match="3 bytes was given for a payload of 4"):
        feed(reader, tensor_frame(Kind.SUM, TensorHeader(1, 1, 0, 1, WireDtype.FP32), b"1234"))


EXPECTED = TensorHeader(1, 2, 3, 4, WireDtype.FP32)


def expect(reader: FrameReader, sink: Sink, payload_bytes: int) -> bytes:
    """Has the reader take the frame into the sink as if it had been understood; gives its head."""
    head = encode_tensor_head(Kind.SUM, EXPECTED, payload_bytes)
    target = memoryview(bytearray(payload_bytes))
    reader.expected = ExpectedFrame(
        head, target, lambda came: sink.frames.append((Kind.SUM, EXPECTED, bytes(target) if came is head else None))
    )
    return head


@settings(deadline=None)
@given(streams, st.sampled_from([1, 8192, STAGING_BYTES, 100_000]), streams, st.randoms(use_true_random=False))
def test_a_frame_that_is_expected_comes_between_others(
    before: list[Frame], payload_bytes: int, behind: list[Frame], random: Random
) -> None:
    payload = (bytes(range(251)) * (payload_bytes // 251 + 1))[:payload_bytes]
    frames: list[Frame] = [*before, (Kind.SUM, EXPECTED, payload), *behind]
    data = b"".join(to_bytes(frame) for frame in frames)
    sink = Sink()
    reader = reader_of(sink)
    expect(reader, sink, payload_bytes)
    while data:
        n_bytes = random.choice([1, 7, 1000, 50_000])
        feed(reader, data[:n_bytes])
        data = data[n_bytes:]
    assert sink.frames == frames
    assert reader.expected is None
    assert not reader.in_frame
    assert len(sink.asked) == sum(payload is not None for _, _, payload in frames) - 1


@pytest.mark.parametrize(
    "other",
    [
        tensor_frame(Kind.PARTIAL, EXPECTED, bytes(16)),
        tensor_frame(Kind.SUM, TensorHeader(1, 2, 4, 4, WireDtype.FP32), bytes(16)),
        tensor_frame(Kind.SUM, EXPECTED, bytes(15)),
    ],
)
def test_what_only_resembles_the_expected_frame_is_understood(other: bytes) -> None:
    sink = Sink()
    reader = reader_of(sink)
    expect(reader, sink, 16)
    feed(reader, other)
    assert sink.asked == [len(other) - len(encode_tensor_head(Kind.SUM, EXPECTED, 0))]
    assert reader.expected is not None


@pytest.mark.parametrize("cut", [0, 5, 30, 40_000])
def test_who_stops_expects_nothing(cut: int) -> None:
    sink = Sink()
    reader = reader_of(sink)
    head = expect(reader, sink, 50_000)
    data = head + bytes(50_000)
    feed(reader, data[:cut])
    reader.stop()
    feed(reader, data[cut:])
    assert sink.frames == []
    assert not reader.in_frame
