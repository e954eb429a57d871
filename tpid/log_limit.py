"""How often one line may be logged: what strangers can cause must not fill a disk."""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

MAX_AT_ONCE = 60  # lines of a kind before the limit is felt: a bad minute is told in full
INTERVAL_S = 2.0  # after that one more line of the kind each time
MAX_KINDS = 1024  # that are remembered; the one not logged for the longest is forgotten first


class LineLimit:
    """Lets lines of one kind through: some at once, then one an interval; counts the rest. Pure."""

    def __init__(self, max_at_once: int = MAX_AT_ONCE, interval_s: float = INTERVAL_S) -> None:
        self._max_at_once = max_at_once
        self._interval_s = interval_s
        self._room = float(max_at_once)
        self._seen_s: float | None = None
        self._left_out = 0

    def admit(self, now_s: float) -> int | None:
        """None: leave this line out. A number: log it; so many were left out before it."""
        if self._seen_s is not None:
            self._room += max(now_s - self._seen_s, 0.0) / self._interval_s
        self._room = min(self._room, self._max_at_once)
        self._seen_s = now_s
        if self._room < 1:
            self._left_out += 1
            return None
        self._room -= 1
        left_out, self._left_out = self._left_out, 0
        return left_out


class RepetitionFilter(logging.Filter):
    """A limit for each kind of line, for a log handler: records of one logger and message, whatever its arguments.

    The next line that is let through after others were left out says how many: `left_out=N`.
    """

    def __init__(
        self,
        make_limit: Callable[[], LineLimit] = LineLimit,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self._make_limit = make_limit
        self._clock = clock
        self._lock = threading.Lock()  # lines come from any thread
        self._limits: OrderedDict[tuple[str, str], LineLimit] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        left_out = self._admit((record.name, str(record.msg)[:200]))
        if left_out is None:
            return False
        if left_out:
            record.msg, record.args = f"{record.getMessage()} left_out={left_out}", ()
        return True

    def _admit(self, kind: tuple[str, str]) -> int | None:
        with self._lock:
            limit = self._limits.pop(kind, None) or self._make_limit()
            self._limits[kind] = limit
            if len(self._limits) > MAX_KINDS:
                self._limits.popitem(last=False)
            return limit.admit(self._clock())
