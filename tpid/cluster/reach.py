"""Whether devices of a home get through to each other: asked by the doctor of one, looked at by the others.

A device that is asked tries only where it would dial the asking one itself, and says which of these addresses answer.
"""

import asyncio
import contextlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tpid.cluster.address import Address
from tpid.comm.connection import Connection
from tpid.comm.dialling import knock
from tpid.comm.messages import Look, Seen
from tpid.device import DeviceId
from tpid.errors import DeviceLostError

KNOCK_S: Final = 2.0  # for TCP to be up; a firewall that drops says nothing at all
ASK_S: Final = KNOCK_S + 2.0  # for the answers of all
MAX_ASKING: Final = 16  # devices that wait for an answer; one more gets none
MAX_ADDRESSES: Final = 8  # of a device that are tried

REACH_MESSAGES: Final = (Look, Seen)


class Reach:
    """`addresses` are where a device would be dialled now; `announced` is whether mDNS brings it here."""

    def __init__(
        self, addresses: Callable[[DeviceId], Sequence[Address]], announced: Callable[[DeviceId], bool]
    ) -> None:
        self._addresses = addresses
        self._announced = announced
        self._asking: asyncio.Queue[Connection] = asyncio.Queue(MAX_ASKING)
        self._asked: dict[DeviceId, asyncio.Future[Seen]] = {}

    async def run(self) -> None:
        """Answers, one device after the other, until cancelled."""
        while True:
            connection = await self._asking.get()
            own = Address(connection.peer_address.rpartition(":")[0].strip("[]"), connection.peer_port)
            known = [own, *self._addresses(connection.peer.id)] if own.port else self._addresses(connection.peer.id)
            looked = await look(known)
            seen = Seen(
                announced=self._announced(connection.peer.id),
                reached=[str(address) for address, why in looked.items() if not why],
                not_reached={str(address): why for address, why in looked.items() if why},
            )
            with contextlib.suppress(DeviceLostError):  # it is told of elsewhere
                connection.send(seen)

    def received(self, connection: Connection, message: Look | Seen) -> None:
        if isinstance(message, Seen):
            asked = self._asked.pop(connection.peer.id, None)
            if asked is not None and not asked.done():
                asked.set_result(message)
        else:
            with contextlib.suppress(asyncio.QueueFull):
                self._asking.put_nowait(connection)

    async def ask(self, connections: Sequence[Connection]) -> Mapping[DeviceId, Seen]:
        """What each of them sees of this device; of those that do not say so within `ASK_S`, nothing."""
        futures: dict[DeviceId, asyncio.Future[Seen]] = {}
        for connection in connections:
            asked = self._asked.get(connection.peer.id)
            if asked is None:
                asked = self._asked[connection.peer.id] = asyncio.get_running_loop().create_future()
                with contextlib.suppress(DeviceLostError):
                    connection.send(Look())
            futures[connection.peer.id] = asked
        if futures:
            await asyncio.wait(futures.values(), timeout=ASK_S)
        for device, asked in futures.items():
            if not asked.done() and self._asked.get(device) is asked:
                del self._asked[device]
        return {device: asked.result() for device, asked in futures.items() if asked.done()}


async def look(addresses: Sequence[Address]) -> dict[Address, str]:
    """For each address why nobody answers there; empty where somebody does."""
    tried = list(dict.fromkeys(addresses))[:MAX_ADDRESSES]
    whys = await asyncio.gather(*(knock((address.host, address.port), KNOCK_S) for address in tried))
    return dict(zip(tried, whys, strict=True))
