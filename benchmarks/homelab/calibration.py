"""What the links of a home do, beside what they are told to."""

import contextlib
import json
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from homelab.home import Home
from homelab.host import Host
from homelab.programs import LabError

_PROBE = Path(__file__).with_name("probe.py")
_SEGMENT_SHARE = 1448 / 1538  # of a full frame on the wire, what is a TCP stream's


@dataclass(frozen=True, slots=True)
class Pair:
    """From one host to another over their first links. None: no limit is set, or no probe came back."""

    source: str
    target: str
    set_rtt_ms: float
    rtt_ms: float | None
    p99_ms: float | None
    lost: int
    set_mbit: float | None  # of a TCP stream at the rate that is set
    mbit: float


@contextlib.contextmanager
def echoing(host: Host, nic: int = 0) -> Iterator[str]:
    """Probes of `host` are answered meanwhile; gives its address."""
    address = host.addresses_of(nic)[0]
    process = host.popen(sys.executable, "-P", _PROBE, "echo", address, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if process.stdout.readline() != b"ready\n":
            raise LabError(f"{host.name} does not answer probes.")
        yield address
    finally:
        process.kill()
        process.communicate()


def round_trips_ms(source: Host, address: str, n: int = 100, every_s: float = 0.0) -> list[float | None]:
    """Of datagrams of 64 bytes; None where one was lost."""
    trips: list[float | None] = json.loads(source.run(sys.executable, "-P", _PROBE, "trips", address, n, every_s))
    return trips


def stream_mbit(source: Host, address: str, seconds: float = 2.0) -> float:
    """What came through of one TCP stream, without its headers."""
    return float(source.run(sys.executable, "-P", _PROBE, "rate", address, seconds))


def calibrate(home: Home, n_trips: int, seconds: float) -> Iterator[Pair]:
    """The first host with each of the others."""
    first = home.hosts[0]
    for other in home.hosts[1:]:
        with echoing(other) as address:
            trips = round_trips_ms(first, address, n_trips)
            mbit = stream_mbit(first, address, seconds)
        came = sorted(trip for trip in trips if trip is not None)
        ends = (first.link.layout, other.link.layout)
        rates = [end.rate_mbit for end in ends if end.rate_mbit]
        yield Pair(
            source=first.name,
            target=other.name,
            set_rtt_ms=sum(2 * end.delay_ms + end.jitter_ms for end in ends),
            rtt_ms=statistics.median(came) if came else None,
            p99_ms=came[int(0.99 * len(came))] if came else None,
            lost=len(trips) - len(came),
            set_mbit=min(rates) * _SEGMENT_SHARE if rates else None,
            mbit=mbit,
        )
