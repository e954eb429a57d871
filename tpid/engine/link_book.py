"""What is known of the links of the home: measured from here while this device is idle, and told by the others.

Each link has two ends that measure it. What disturbs a measurement only ever makes it longer, so of what both say the
less counts; and a device measures only while it computes nothing itself.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from statistics import median
from typing import Final

from tpid.comm.connection import Connection
from tpid.comm.messages import MAX_LINKS, Links
from tpid.device import DeviceId, LinkCost
from tpid.errors import DeviceLostError
from tpid.plan.network import Network, pair_of

log = logging.getLogger(__name__)

LOOK_S: Final = 0.2
ROUND_S: Final = 2.0  # a round that takes longer is given up: its link is no good for an exchange anyway
AGAIN_S: Final = 30.0  # between two rounds over one link
N_ROUNDS: Final = 5  # of which the median counts
_TOLD_CHANGE: Final = 0.1  # what the others need not hear of


class LinkBook:
    """All methods but `run` are called on the event loop and do not block."""

    def __init__(
        self, me: DeviceId, peers: Callable[[], Mapping[DeviceId, Connection]], is_idle: Callable[[], bool]
    ) -> None:
        self._me = me
        self._peers = peers
        self._is_idle = is_idle
        self._rounds: dict[DeviceId, deque[LinkCost]] = {}
        self._due_s: dict[DeviceId, float] = {}
        self._under_way: tuple[DeviceId, float] | None = None  # and when it began
        self._told: dict[DeviceId, dict[DeviceId, LinkCost]] = {}  # by whom, of its link to whom
        self._said: dict[DeviceId, LinkCost] = {}

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            self.look(loop.time(), idle=self._is_idle())
            await asyncio.sleep(LOOK_S)

    def look(self, now: float, *, idle: bool) -> None:
        """Take what was measured, and begin the next round; to be called every `LOOK_S`."""
        peers = self._peers()
        for gone in self._rounds.keys() - peers.keys():
            del self._rounds[gone]
        if self._under_way is not None:
            device, began_s = self._under_way
            connection = peers.get(device)
            if connection is not None and idle and connection.meter.busy and now - began_s < ROUND_S:
                return
            self._under_way = None
            if connection is not None:
                if idle and connection.meter.result is not None:
                    self._take(connection, connection.meter.result)
                connection.meter.drop()
        if idle:
            self._begin(peers, now)

    def heard(self, device: DeviceId, message: Links) -> None:
        self._told[device] = {DeviceId(id): LinkCost(*cost) for id, *cost in message.links}

    def joined(self, connection: Connection) -> None:
        """The device has yet to be told; it may have been here before, elsewhere in the network."""
        self._due_s.pop(connection.peer.id, None)
        self._rounds.pop(connection.peer.id, None)
        if self._said:
            self._tell([connection])

    def lost(self, device: DeviceId) -> None:
        self._told.pop(device, None)
        if self._said.pop(device, None) is not None:  # no plan may count on that link now
            self._tell(self._peers().values())

    @property
    def network(self) -> Network:
        links: dict[tuple[DeviceId, DeviceId], LinkCost] = {}
        for device, connection in self._peers().items():
            measured = self._measured(device)
            if measured is None and connection.rtt_s is not None:
                measured = LinkCost(rtt_s=connection.rtt_s)
            if measured is not None:
                links[pair_of(self._me, device)] = measured
        for teller, told in self._told.items():
            for device, cost in told.items():
                pair = pair_of(teller, device)
                links[pair] = _better(links[pair], cost) if pair in links else cost
        return Network(links)

    def _begin(self, peers: Mapping[DeviceId, Connection], now: float) -> None:
        due = [(self._due_s.get(device, 0.0), device) for device in peers]
        due_s, device = min(due, default=(now + 1, None))
        if device is None or due_s > now:
            return
        rounds = len(self._rounds.get(device, ()))
        self._due_s[device] = now + (AGAIN_S if rounds + 1 >= N_ROUNDS else AGAIN_S / 10)
        try:
            peers[device].probe()
        except DeviceLostError:
            return  # `peer_lost` follows
        self._under_way = device, now

    def _take(self, connection: Connection, cost: LinkCost) -> None:
        device = connection.peer.id
        self._rounds.setdefault(device, deque(maxlen=N_ROUNDS)).append(cost)
        measured = self._measured(device)
        if measured is not None and _differs(self._said.get(device), measured):
            self._said[device] = measured
            log.info(
                "link peer=%s rtt_ms=%.2f mbytes_s=%.1f message_us=%.0f",
                connection.peer.name,
                measured.rtt_s * 1e3,
                measured.bytes_s / 1e6,
                measured.message_s * 1e6,
            )
            self._tell(self._peers().values())

    def _measured(self, device: DeviceId) -> LinkCost | None:
        rounds = self._rounds.get(device)
        if not rounds:
            return None
        return LinkCost(
            median(cost.rtt_s for cost in rounds),
            median(cost.bytes_s for cost in rounds),
            median(cost.message_s for cost in rounds),
        )

    def _tell(self, connections: Iterable[Connection]) -> None:
        costs = list(self._said.items())[:MAX_LINKS]
        message = Links(links=[(device, cost.rtt_s, cost.bytes_s, cost.message_s) for device, cost in costs])
        for connection in connections:
            with contextlib.suppress(DeviceLostError):  # `peer_lost` follows
                connection.send(message)


def _better(one: LinkCost, other: LinkCost) -> LinkCost:
    """Where one does not know a number, the other's."""
    return LinkCost(
        min(one.rtt_s, other.rtt_s) or max(one.rtt_s, other.rtt_s),
        max(one.bytes_s, other.bytes_s),
        min(one.message_s, other.message_s) or max(one.message_s, other.message_s),
    )


def _differs(said: LinkCost | None, now: LinkCost) -> bool:
    if said is None:
        return True
    pairs = ((said.rtt_s, now.rtt_s), (said.bytes_s, now.bytes_s), (said.message_s, now.message_s))
    return any(abs(before - after) > _TOLD_CHANGE * max(before, after) for before, after in pairs)
