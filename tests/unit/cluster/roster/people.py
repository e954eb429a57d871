"""Devices with keys, made once: the tests of roster and pairing speak of them by their numbers."""

import functools
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tpid.cluster.identity.certificate import device_id_of, make_certificate
from tpid.cluster.identity.identity import Identity
from tpid.cluster.roster.roster import Roster, admit, found, revoke
from tpid.device import Role


@functools.cache
def person(number: int) -> Identity:
    key = ec.derive_private_key(number + 1, ec.SECP256R1())
    certificate = make_certificate(key)
    return Identity(device_id_of(certificate), certificate, key, Path("nowhere"))


def line(n_people: int) -> Roster:
    """Each has admitted the next; the second last was revoked."""
    roster = found(person(0), "device0")
    for number in range(1, n_people):
        roster = admit(
            roster,
            person(number - 1),
            certificate=person(number).certificate,
            name=f"gerät{number}",
            role=Role.USER,
        )
    return revoke(roster, person(0), person(n_people - 2).id)
