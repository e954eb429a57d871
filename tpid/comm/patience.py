"""Whether a rank that waits for others stays at the socket or gives the loop its turn: learnt from the waits before.

At the socket an exchange costs what blocking sockets cost, and meanwhile the loop is deaf. So it is done where waits
are short, as between devices of like speed on a wire; where they are long the way through the loop does not count.
"""

from typing import Final

# The loop may be deaf for this long for one wait; then the wait goes on in the loop.
MOST_S: Final = 2e-3
# Above this, staying at the socket gains less than 5 %.
_SHORT_S: Final = 1e-3
# Up with each wait that is longer, down with each that is shorter: this finds the median, whatever the hiccups.
_STEP: Final = 1.25
_LEAST_S: Final = 1e-6
_LONGEST_S: Final = 1.0


class Patience:
    __slots__ = ("_usual_s",)

    def __init__(self) -> None:
        self._usual_s = _LEAST_S

    @property
    def stays(self) -> bool:
        """Whether to wait at the socket, for `MOST_S` at most."""
        return self._usual_s < _SHORT_S

    def waited(self, for_s: float) -> None:
        """A wait is over, wherever it took place."""
        if for_s > self._usual_s:
            self._usual_s = min(self._usual_s * _STEP, _LONGEST_S)
        else:
            self._usual_s = max(self._usual_s / _STEP, _LEAST_S)
