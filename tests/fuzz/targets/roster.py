"""Bytes of a peer about the roster: keys, statements, and what enters a roster of them."""

import functools
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tpid.cluster.identity.certificate import device_id_of, make_certificate
from tpid.cluster.identity.identity import Identity
from tpid.cluster.roster.gossip import decode_keys, decode_statements, encode_statements, missing
from tpid.cluster.roster.roster import Roster, found, received
from tpid.errors import RemoteProtocolError, RosterError


@functools.cache
def _home() -> Roster:
    key = ec.derive_private_key(1, ec.SECP256R1())
    certificate = make_certificate(key)
    return found(Identity(device_id_of(certificate), certificate, key, Path("nowhere")), "device")


def fuzz(data: bytes) -> None:
    with suppress(RemoteProtocolError):
        missing(_home(), decode_keys(data)[1])
    with suppress(RemoteProtocolError, RosterError):
        home, statements = decode_statements(data)
        if statements and encode_statements(home, statements) != [data]:
            raise AssertionError("two ways to write the same")
        received(Roster(home), statements)
        if received(_home(), statements).members.keys() != _home().members.keys():
            raise AssertionError("a stranger is in")
