from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpid.comm.frames import PREFIX
from tpid.comm.opening import (
    OPENING_BYTES,
    PROTOCOL_VERSION,
    Purpose,
    closed,
    decode_opening,
    encode_opening,
    refusal_in,
)
from tpid.errors import PairingError, RefusedError, RemoteProtocolError, TpidError, VersionMismatchError


@pytest.mark.parametrize("purpose", list(Purpose))
def test_an_opening_is_a_prefix_of_its_version(purpose: Purpose) -> None:
    data = encode_opening(purpose)
    assert data == PREFIX.pack(b"TP", PROTOCOL_VERSION, purpose, 0, 0)
    assert len(data) == OPENING_BYTES
    assert decode_opening(data, peer_address="x") is purpose


@pytest.mark.parametrize(("version", "whose"), [(1, "that one"), (3, "this one"), (0, "that one")])
def test_the_older_device_is_to_be_upgraded(version: int, whose: str) -> None:
    data = encode_opening(Purpose.MEMBER)
    data = data[:2] + bytes([version]) + data[3:]
    with pytest.raises(VersionMismatchError, match=f"Upgrade tpid on {whose}"):
        decode_opening(data, peer_address="x")
    assert isinstance(refusal_in(data, Purpose.MEMBER, peer_address="x"), VersionMismatchError)


def test_a_listener_that_is_closed_is_told_from_one_that_begins_tls() -> None:
    assert isinstance(refusal_in(closed(), Purpose.PAIRING, peer_address="x"), PairingError)
    assert isinstance(refusal_in(closed(), Purpose.MEMBER, peer_address="x"), RefusedError)
    assert isinstance(refusal_in(encode_opening(Purpose.MEMBER), Purpose.MEMBER, peer_address="x"), RemoteProtocolError)
    assert refusal_in(b"\x16\x03\x03\x00\x7a" + bytes(7), Purpose.MEMBER, peer_address="x") is None


@given(st.binary(max_size=20) | st.binary(max_size=10).map(lambda rest: b"TP\x02" + rest))
def test_any_bytes_are_an_opening_or_one_error(data: bytes) -> None:
    with suppress(RemoteProtocolError, VersionMismatchError):
        assert encode_opening(decode_opening(data, peer_address="x")) == data
    refusal = refusal_in(data, Purpose.MEMBER, peer_address="x")
    assert (refusal is None) == (not data or not b"TP".startswith(data[:2]))
    assert refusal is None or isinstance(refusal, TpidError)
