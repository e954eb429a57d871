"""When to ping, and when the other side counts as lost. Pure: `now_s` is an argument.

    heard last                 then
    -------------------------  ----------------------------------------------------------
    any byte, ever             a ping each `ping_interval_s`
    `silence_timeout_s` ago    a second look; still nothing: it is silent
    bytes wait for that long   a second look; they still do: it does not read

The second look is for this side: after its own loop stood still, a timer may run before the sockets are served.
"""

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from tpid.comm.settings import CommSettings

SECOND_LOOK_S: Final = 0.02


class Loss(Enum):
    SILENT = auto()
    DOES_NOT_READ = auto()


@dataclass(frozen=True, slots=True)
class Beat:
    """What to do now: ping, or take the device for lost; else look again at `next_s`."""

    next_s: float
    ping: bool = False
    loss: Loss | None = None
    silent_s: float = 0.0


class Liveness:
    """Of one connection, from its hello on. Times are of one clock that never goes back."""

    def __init__(self, settings: CommSettings) -> None:
        self._settings = settings
        self._heard_s = 0.0
        self._next_ping_s = 0.0
        self._unsent_since_s: float | None = None
        self._looked_twice = False

    @property
    def blocked(self) -> bool:
        """Whether more waits to be sent than should."""
        return self._unsent_since_s is not None

    def heard(self, now_s: float) -> None:
        """Bytes have come."""
        self._heard_s = now_s

    def write_paused(self, now_s: float) -> None:
        self._unsent_since_s = now_s

    def write_resumed(self) -> None:
        self._unsent_since_s = None

    def beat(self, now_s: float, *, reads: bool) -> Beat:
        """Call first when the hello is done, then at each `next_s`. `reads`: this side takes what comes; while it
        does not, silence means nothing."""
        limit_s = self._settings.silence_timeout_s
        silent_s = now_s - self._heard_s if reads else 0.0
        does_not_read = self._unsent_since_s is not None and now_s - self._unsent_since_s >= limit_s
        if does_not_read or silent_s >= limit_s:
            loss = Loss.DOES_NOT_READ if does_not_read else Loss.SILENT
            again_s = now_s + SECOND_LOOK_S
            first, self._looked_twice = not self._looked_twice, True
            return Beat(again_s) if first else Beat(again_s, loss=loss, silent_s=silent_s)
        self._looked_twice = False
        ping = now_s >= self._next_ping_s
        if ping:
            self._next_ping_s = now_s + self._settings.ping_interval_s
        return Beat(min(self._next_ping_s, now_s - silent_s + limit_s), ping)
