"""The twelve bytes before TLS, of whoever calls and of whoever answers: a purpose, a refusal, TLS, or one error."""

from contextlib import suppress

from tpid.comm.opening import Purpose, decode_opening, encode_opening, refusal_in
from tpid.errors import RemoteProtocolError, VersionMismatchError


def fuzz(data: bytes) -> None:
    with suppress(RemoteProtocolError, VersionMismatchError):
        assert encode_opening(decode_opening(data, peer_address="10.0.0.2:7474")) == data
    for purpose in Purpose:
        refusal = refusal_in(data, purpose, peer_address="10.0.0.2:7474")
        assert refusal is None or len(str(refusal)) < 1000
