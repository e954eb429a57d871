"""Devices that have failed sit out the next plans for a while. Pure: `now` is an argument.

Without it a device that is there and does not work would be in each new plan, and fail it. The time doubles with each
failure, and a device that has been well for long enough begins anew; so a disk that hung once costs ten seconds of its
help, and one that is broken costs a try every five minutes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from tpid.device import DeviceId

FIRST_S: Final = 10.0
MOST_S: Final = 300.0
FORGET_S: Final = 600.0  # after the end of its time; then it begins with `FIRST_S` again
MAX_REASON_CHARS: Final = 300
MAX_DEVICES: Final = 256  # more than a home has; whoever has been well for longest is forgotten first


@dataclass(frozen=True, slots=True)
class _Record:
    reason: str
    failures: int
    until_s: float


class SitOut:
    def __init__(self) -> None:
        self._records: dict[DeviceId, _Record] = {}

    def blame(self, device: DeviceId, reason: str, now: float) -> float:
        """The device did not do its part; the seconds that it sits out. While it does, nothing is added."""
        record = self._records.pop(device, None)
        if record is not None and record.until_s > now:
            self._records[device] = record
            return record.until_s - now
        known = record is not None and record.until_s + FORGET_S > now
        failures = record.failures + 1 if record is not None and known else 1
        seconds = min(FIRST_S * 2.0 ** (failures - 1), MOST_S)
        if len(self._records) >= MAX_DEVICES:
            del self._records[min(self._records, key=lambda known: self._records[known].until_s)]
        self._records[device] = _Record(reason[:MAX_REASON_CHARS], failures, now + seconds)
        return seconds

    def out(self, now: float) -> Mapping[DeviceId, str]:
        """Who sits out, and why."""
        return {device: record.reason for device, record in self._records.items() if record.until_s > now}
