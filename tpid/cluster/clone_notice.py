"""Another device has this one's identity: what people are told of it, for as long as it is so."""

from typing import Final

from tpid.cluster.status import FailedDial
from tpid.comm.handshake import CLONED

KEPT_S: Final = 30.0  # after it was met; two copies that know of each other meet at least every 10 s


class CloneNotice:
    """`now_s` are readings of one clock."""

    def __init__(self) -> None:
        self._announced: dict[str, FailedDial] = {}  # by the name of the service
        self._met: FailedDial | None = None
        self._met_until_s = 0.0

    def met(self, address: str, reason: str, now_s: float) -> None:
        """It has dialled this device, or was dialled."""
        self._met = FailedDial(address, None, CLONED, reason)
        self._met_until_s = now_s + KEPT_S

    def announced(self, service: str, address: str, reason: str) -> None:
        self._announced[service] = FailedDial(address, None, CLONED, reason)

    def vanished(self, service: str) -> bool:
        """Its announcement is taken back; whether there was one."""
        return self._announced.pop(service, None) is not None

    def at(self, now_s: float) -> FailedDial | None:
        """What to tell now, if anything."""
        if self._met is not None and now_s < self._met_until_s:
            return self._met
        return next(iter(self._announced.values()), None)
