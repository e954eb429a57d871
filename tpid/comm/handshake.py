"""Who may connect: the hello of both sides, without a socket.

The dialler says HELLO; the listener answers HELLO or REFUSE; the dialler, where the answer does not please it,
sends REFUSE. The version was compared before, in the prefix. So both sides always know why there is no connection.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from tpid.comm.messages import PROTOCOL_VERSION, Bye, Hello, Message, Refuse
from tpid.comm.trust import Proven
from tpid.device import DeviceProfile, Role
from tpid.errors import DeviceLostError, RefusedError, RemoteProtocolError, TpidError, VersionMismatchError

# Codes of refusals.
SELF: Final = "self"
CLONED: Final = "cloned"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What follows from what was received: `send` first; then either `peer` is known or `error` ends it."""

    send: Message | None = None
    peer: DeviceProfile | None = None
    error: TpidError | None = None


class Handshake:
    """One side of the hello. `accept` is the listener's owner's say: it raises a TpidError to refuse. `proven` is who
    the peer is by its certificate, None on a plain connection."""

    def __init__(
        self,
        hello: Hello,
        *,
        dialled: bool,
        peer_address: str,
        accept: Callable[[Hello], None] | None = None,
        proven: Proven | None = None,
    ) -> None:
        self.dialled = dialled
        self.peer_address = peer_address
        self.peer_port = 0  # where the peer listens, once its hello is here
        self.peer_skew_s: float | None = None  # its wall clock less ours, as exact as the hello is quick
        self._hello = hello
        self._accept = accept
        self._proven = proven

    def start(self) -> Hello | None:
        """What this side sends before it has received anything."""
        return self._hello if self.dialled else None

    def received(self, message: Message) -> Outcome:
        """The peer's first message."""
        device = f"The device at {self.peer_address}"
        match message:
            case Hello():
                return self._hello_received(message)
            case Refuse(code=code, reason=reason):
                return Outcome(error=RefusedError(f"{device} refused the connection: {reason}", reason_code=code))
            case Bye(reason=reason):
                return Outcome(error=DeviceLostError(f"{device} left before its hello: {reason}"))
            case _:
                error = RemoteProtocolError(f"{device} sent {type(message).__name__} before its hello.")
                return Outcome(send=Refuse(code=error.code, reason=error.message), error=error)

    def unreadable(self, error: TpidError) -> Refuse | None:
        """What to answer where the bytes themselves were refused; nothing to a peer that is no tpid."""
        if isinstance(error, VersionMismatchError):
            name = self._hello.profile.name
            return Refuse(code=error.code, reason=f"Device {name} speaks version {PROTOCOL_VERSION}.")
        return None

    def _hello_received(self, theirs: Hello) -> Outcome:
        try:
            self._check(theirs)
            if self._accept is not None:
                self._accept(theirs)
        except RefusedError as error:
            return Outcome(send=Refuse(code=error.reason_code, reason=str(error)), error=error)
        except TpidError as error:
            return Outcome(send=Refuse(code=error.code, reason=str(error)), error=error)
        self.peer_port = theirs.port
        if theirs.clock_s > 0:
            self.peer_skew_s = theirs.clock_s - time.time()
        return Outcome(send=None if self.dialled else self._hello, peer=theirs.profile)

    def _check(self, theirs: Hello) -> None:
        self._check_proven(theirs.profile)
        if theirs.cluster != self._hello.cluster:
            raise RefusedError(
                f"Device {theirs.profile.name} at {self.peer_address} is in cluster {theirs.cluster!r}, "
                f"device {self._hello.profile.name} in cluster {self._hello.cluster!r}.",
                reason_code="other_cluster",
                hint="If they belong together: `tpictl invite` on one of them, `tpictl join CODE` on the other.",
            )
        if theirs.profile.id == self._hello.profile.id:
            if theirs.profile == self._hello.profile:
                raise RefusedError(f"The device at {self.peer_address} is this device itself.", reason_code=SELF)
            raise RefusedError(
                f"Device {theirs.profile.name} at {self.peer_address} and device {self._hello.profile.name} have the "
                "same identity: one is a copy of the other.",
                reason_code=CLONED,
                hint="Delete the file identity.pem in the state directory of one of them, and start its tpid again.",
            )

    def _check_proven(self, claimed: DeviceProfile) -> None:
        """A hello claims; the certificate and the roster prove."""
        proven = self._proven
        if proven is None:
            return
        if claimed.id != proven.id:
            raise RefusedError(
                f"The device at {self.peer_address} says that it is {claimed.id}, and its certificate is that of "
                f"{proven.id}.",
                reason_code="not_proven",
            )
        if claimed.role is Role.USER and proven.role is not Role.USER:
            raise RefusedError(
                f"Device {claimed.name} at {self.peer_address} says that it is a user's, and was paired as a helper.",
                reason_code="not_granted",
            )
