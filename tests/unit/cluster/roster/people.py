"""Devices with keys, made once: the tests of roster and pairing speak of them by their numbers."""

import functools
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tpid.cluster.identity.certificate import device_id_of, make_certificate
from tpid.cluster.identity.identity import Identity


@functools.cache
def person(number: int) -> Identity:
    key = ec.derive_private_key(number + 1, ec.SECP256R1())
    certificate = make_certificate(key)
    return Identity(device_id_of(certificate), certificate, key, Path("nowhere"))
