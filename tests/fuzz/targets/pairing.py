"""Bytes of a stranger to an open invitation, and of a listener to a device that joins; neither side may succeed."""

import functools
import random
from contextlib import suppress
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tpid.cluster.identity.certificate import device_id_of, make_certificate
from tpid.cluster.identity.identity import Identity
from tpid.cluster.pairing.actions import Admit, Run
from tpid.cluster.pairing.code import Code, parse_code
from tpid.cluster.pairing.inviter import Inviter, Inviting
from tpid.cluster.pairing.joiner import Joiner
from tpid.cluster.pairing.messages import PairingReader
from tpid.cluster.roster.statement import home_of
from tpid.device import Role
from tpid.errors import PairingError, RemoteProtocolError, VersionMismatchError

_CODE = Code("walnut-canyon-48213")


@functools.cache
def _identity(number: int) -> Identity:
    key = ec.derive_private_key(number, ec.SECP256R1())
    certificate = make_certificate(key)
    return Identity(device_id_of(certificate), certificate, key, Path("nowhere"))


def fuzz(data: bytes) -> None:
    with suppress(PairingError):
        parse_code(data.decode("utf-8", "replace"))
    try:
        messages = PairingReader().feed(data)
    except (RemoteProtocolError, VersionMismatchError):
        return
    home = _identity(1)
    inviting = Inviting(home_of(home.id), home.id, "laptop", Role.HELPER, lambda name: name)
    inviter = Inviter(_CODE, inviting, entropy=random.Random(1).randbytes, now_s=0)
    inviter.connected(Run(1), 0)
    joiner = Joiner(_CODE, _identity(2), "pi", inviter_certificate=home.certificate, entropy=random.Random(2).randbytes)
    joiner.start(0)
    for message in messages[:8]:
        if any(isinstance(action, Admit) for action in inviter.received(Run(1), message, 0)):
            raise AssertionError("a stranger is in")
        joiner.received(message, 0)
