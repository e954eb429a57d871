"""Who a peer is by its certificate, and through which doors it comes: asked here, answered by the home.

Without a `Trust` connections are plain, and stay on loopback: for tests and benchmarks.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tpid.comm.opening import Purpose
from tpid.comm.tls_handshake import Door
from tpid.device import DeviceId, Role


@dataclass(frozen=True, slots=True)
class Proven:
    """What the certificate proves, and the roster grants: a hello may not claim another id, or more."""

    id: DeviceId
    role: Role


class Trust(Protocol):
    """Asked anew for each connection: who belongs to the home may have changed."""

    def doors(self) -> Mapping[Purpose, Door]:
        """Of the listener, by what a dialler wants."""
        ...

    def door_to(self, expected: DeviceId | None) -> Door:
        """To a member: the one that is expected, or any."""
        ...

    def proven(self, certificate: bytes | None) -> Proven | None:
        """None where it is no member's."""
        ...
