"""How a rank waits for the others: at the socket or in the loop, and how busily. Learnt from the waits before.

At the socket an exchange costs what blocking sockets cost, and meanwhile the loop is deaf. So it is done where waits
are short, as between devices of like speed on a wire; where they are long the way through the loop does not count.
"""

from typing import Final

# The loop may be deaf for this long for one wait; then the wait goes on in the loop.
MOST_S: Final = 2e-3
# Above this, staying at the socket gains less than 5 %.
_SHORT_S: Final = 1e-3
# As long as it takes to put a core to sleep and to wake it up, twice: below, looking without a pause is quicker. More
# ranks than cores on one machine make waits longer than this, and so leave each other the cores.
SPIN_S: Final = 50e-6
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

    @property
    def spin_s(self) -> float:
        """For how long to look there without giving the core to others."""
        return SPIN_S if self._usual_s < SPIN_S else 0.0

    def waited(self, for_s: float) -> None:
        """A wait is over, wherever it took place."""
        if for_s > self._usual_s:
            self._usual_s = min(self._usual_s * _STEP, _LONGEST_S)
        else:
            self._usual_s = max(self._usual_s / _STEP, _LEAST_S)
