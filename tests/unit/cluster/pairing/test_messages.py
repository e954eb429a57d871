from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.cluster.roster.people import line, person
from tpid.cluster.octets import is_name
from tpid.cluster.pairing.messages import (
    MAX_BODY_BYTES,
    Answer,
    Confirm,
    Done,
    Hello,
    PairingMessage,
    PairingReader,
    Refuse,
    Welcome,
    Why,
    encode_pairing,
)
from tpid.cluster.roster.statement import HomeId
from tpid.device import Role
from tpid.errors import LocalProtocolError, RemoteProtocolError, VersionMismatchError

HOME = line(3)
names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=40).filter(is_name)
hashes = st.binary(min_size=32, max_size=32)
messages = st.one_of(
    st.builds(Hello, certificate=st.binary(max_size=1024), name=names, element=hashes),
    st.builds(
        Answer,
        home=hashes.map(HomeId),
        role=st.sampled_from(Role),
        inviter_name=names,
        joiner_name=names,
        element=hashes,
    ),
    st.builds(Confirm, mac=hashes, signature=st.binary(min_size=64, max_size=64)),
    st.builds(
        Welcome,
        mac=hashes,
        home=st.just(HOME.home),
        statements=st.lists(st.sampled_from(HOME.statements), max_size=5).map(tuple),
    ),
    st.just(Done()),
    st.builds(Refuse, why=st.sampled_from(Why), tries_left=st.integers(0, 255)),
)


@given(st.lists(messages, max_size=4), st.integers(1, 40))
def test_messages_come_out_as_they_went_in_whatever_the_pieces(sent: list[PairingMessage], piece_bytes: int) -> None:
    data = b"".join(map(encode_pairing, sent))
    assert PairingReader().feed(data) == sent
    reader = PairingReader()
    received = []
    for start in range(0, len(data), piece_bytes):
        received += reader.feed(data[start : start + piece_bytes])
    assert received == sent


HELLO = encode_pairing(Hello(person(1).certificate, "pi", bytes(32)))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n",
        HELLO[:4] + b"\xff\xff\xff\xff" + HELLO[8:],
        HELLO[:4] + (MAX_BODY_BYTES + 1).to_bytes(4, "big") + HELLO[8:],
        HELLO[:8] + b"\0\0\0\1" + HELLO[12:],
        HELLO[:3] + b"\x01" + HELLO[4:],
        HELLO[:3] + b"\x46" + HELLO[4:],
        HELLO[:12] + b"\xff\xff" + HELLO[14:],
        encode_pairing(Done())[:4] + b"\0\0\0\1\0\0\0\0x",
        encode_pairing(Refuse(Why.BUSY))[:-2] + b"\xff\0",
    ],
)
def test_what_is_no_message_is_refused_before_memory_is_taken(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        PairingReader().feed(data)


def test_another_version_is_told() -> None:
    with pytest.raises(VersionMismatchError, match="version 3"):
        PairingReader().feed(HELLO[:2] + b"\3" + HELLO[3:12])


def test_a_name_that_cannot_be_shown_is_refused() -> None:
    for name in (b"\x1b[2J", b" a", b"\xff", b""):
        body = b"\0\0" + bytes([len(name)]) + name + bytes(32)
        with pytest.raises(RemoteProtocolError, match="name"):
            PairingReader().feed(b"TP\x02\x40" + len(body).to_bytes(4, "big") + bytes(4) + body)


def test_a_welcome_has_a_limit() -> None:
    with pytest.raises(LocalProtocolError):
        encode_pairing(Welcome(bytes(32), HOME.home, HOME.statements * 100))


@given(st.binary(max_size=200) | st.tuples(messages.map(encode_pairing), st.integers(0, 500), st.binary(max_size=3)))
def test_any_bytes_give_messages_or_one_error(data: bytes | tuple[bytes, int, bytes]) -> None:
    if isinstance(data, tuple):
        message, place, other = data
        place %= len(message)
        data = message[:place] + other + message[place + len(other) :]
    with suppress(RemoteProtocolError, VersionMismatchError):
        for message in PairingReader().feed(data):
            assert encode_pairing(message) in data
