"""What members of a home tell each other about it: who belongs to it, and where each was reached.

Each side sends the keys of its roster when a connection opens, answers the other's by what is missing there, and passes
on what is new to it, to who was put out by it as well: it shall know. All of it goes over TLS, to members only.
"""

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from tpid.cluster.address import Address, parse_address
from tpid.cluster.home import Home
from tpid.cluster.roster.gossip import decode_keys, decode_statements, encode_keys, encode_statements, missing
from tpid.cluster.roster.statement import Statement
from tpid.cluster.whereabouts import MAX_ADDRESSES, Whereabouts
from tpid.comm.connection import Connection
from tpid.comm.messages import Addresses, Message, RosterKeys, RosterNews
from tpid.device import DeviceId
from tpid.errors import ConfigError, DeviceLostError, RemoteProtocolError, RosterError

NEWS_MESSAGES: Final = (RosterKeys, RosterNews, Addresses)
# Messages about the roster from which nothing could be taken: checking the signatures of one costs tens of
# milliseconds, so a member that sends more of them is cut off.
MAX_USELESS: Final = 3

_logger = logging.getLogger(__name__)


class News:
    """`peers` are the connections that are up, by device."""

    def __init__(
        self, home: Home, whereabouts: Whereabouts, peers: Callable[[], Mapping[DeviceId, Connection]]
    ) -> None:
        self._home = home
        self._whereabouts = whereabouts
        self._peers = peers
        self._useless: dict[DeviceId, int] = {}

    def joined(self, connection: Connection) -> None:
        self._useless.pop(connection.peer.id, None)
        _send(connection, RosterKeys(keys=encode_keys(self._home.roster)))
        self._tell_addresses(connection)

    def received(self, connection: Connection, message: RosterKeys | RosterNews | Addresses) -> None:
        """Raises RemoteProtocolError, which ends the connection."""
        match message:
            case RosterKeys(keys=keys):
                home, known = decode_keys(keys)
                if home == self._home.roster.home:
                    self._tell(connection, missing(self._home.roster, known))
            case RosterNews(statements=statements):
                self._hear(connection, statements)
            case Addresses(addresses=addresses):
                self._note(addresses)

    def roster_changed(self, statements: Sequence[Statement]) -> None:
        """This device has said something itself: pass it on to all."""
        for connection in list(self._peers().values()):
            self._tell(connection, statements)

    def addresses_changed(self) -> None:
        for connection in list(self._peers().values()):
            self._tell_addresses(connection)

    def _hear(self, connection: Connection, data: bytes) -> None:
        home, statements = decode_statements(data)
        try:
            new = self._home.hear(statements) if home == self._home.roster.home else []
        except RosterError as error:
            _logger.warning("roster_full peer=%s reason=%s", connection.peer.id, error)
            return
        if not new:
            unknown = [statement for statement in statements if statement not in self._home.roster.statements]
            self._useless[connection.peer.id] = self._useless.get(connection.peer.id, 0) + bool(unknown)
            if self._useless[connection.peer.id] > MAX_USELESS:
                raise RemoteProtocolError("It goes on sending statements that no device of this home has signed.")
            return
        for other in list(self._peers().values()):
            if other is not connection:
                self._tell(other, new)

    def _note(self, addresses: Mapping[str, Sequence[str]]) -> None:
        """Of devices as well whose admission is still on its way here."""
        for device, texts in addresses.items():
            if device == self._home.id:
                continue
            told: list[Address] = []
            for text in texts:
                with contextlib.suppress(ConfigError):
                    told.append(parse_address(text))
            self._whereabouts.told(DeviceId(device), tuple(told[:MAX_ADDRESSES]))

    def _tell(self, connection: Connection, statements: Sequence[Statement]) -> None:
        if statements:
            for part in encode_statements(self._home.roster.home, statements):
                _send(connection, RosterNews(statements=part))

    def _tell_addresses(self, connection: Connection) -> None:
        """Of the others. Loopback addresses lead nowhere from another machine, and from this one as well as from us."""
        known = {
            str(device): [str(address) for address in addresses]
            for device, addresses in self._whereabouts.all().items()
            if device in self._home.members and device != connection.peer.id
        }
        if known:
            _send(connection, Addresses(addresses=known))


def _send(connection: Connection, message: Message) -> None:
    with contextlib.suppress(DeviceLostError):  # `lost` tells
        connection.send(message)
