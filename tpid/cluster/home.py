"""The home that this device belongs to: who it is itself, who the others are, and the TLS that both make.

It lies in the state directory, and what is said about it lies there before it is acted on. A device without a home
founds one: one device alone needs no pairing.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final

from tpid.cluster.identity.certificate import device_id_of, short_fingerprint
from tpid.cluster.identity.contexts import member_client, member_server, pairing_server
from tpid.cluster.identity.identity import FILE_NAME as IDENTITY_FILE
from tpid.cluster.identity.identity import Identity, load_or_create_identity
from tpid.cluster.roster.roster import Member, Roster, found, merged, received
from tpid.cluster.roster.statement import Statement, key_of
from tpid.cluster.roster.store import load_roster, save_roster
from tpid.cluster.whereabouts import Whereabouts, load_whereabouts, save_whereabouts
from tpid.comm.opening import Purpose
from tpid.comm.tls_handshake import Door
from tpid.comm.trust import Proven
from tpid.device import DeviceId, device_name
from tpid.errors import ConfigError, RosterError

_NAME_AT_LEAST: Final = "device"
_SAVE_S: Final = 1.0  # from one writing of news to the next

_logger = logging.getLogger(__name__)


class Home:
    """The trust of all connections. To be used on the event loop, once it is loaded.

    `on_change` is called, on the loop, when the roster is another one.
    """

    def __init__(self, state_dir: Path, identity: Identity, roster: Roster, whereabouts: Whereabouts) -> None:
        self.identity = identity
        self.on_change: Callable[[], None] = lambda: None
        self.whereabouts = whereabouts
        self.invites = False  # whether devices that want to pair are let in now
        self._state_dir = state_dir
        self._roster = roster
        self._contexts: tuple[ssl.SSLContext, ssl.SSLContext] | None = None  # server, client: of this roster
        self._pairing: ssl.SSLContext | None = None
        self._writing = asyncio.Lock()
        self._unsaved = asyncio.Event()
        whereabouts.on_unsaved = self._unsaved.set
        self._kept = roster.keys  # of the roster on the disk
        self._moved = False  # to another home: what is kept is that one's

    @classmethod
    def load(cls, state_dir: Path, name: str) -> Home:
        """The home of this state directory; a new one, founded under `name`, where there is none. Raises ConfigError.

        Where this device was put out, or its identity is another than the roster's, it begins anew as well.
        """
        identity = load_or_create_identity(state_dir)
        roster = load_roster(state_dir)
        if roster is not None and identity.id not in roster.members:
            _logger.warning("home_left reason=%r", "this device does not belong to its home any more, and founds one")
            if roster.is_revoked(identity.id):  # it stays out for ever
                identity = _new_identity(state_dir)
            roster = None
        if roster is None:
            roster = found(identity, device_name(name) or _NAME_AT_LEAST)
            save_roster(state_dir, roster)
        return cls(state_dir, identity, roster, load_whereabouts(state_dir))

    @property
    def id(self) -> DeviceId:
        return self.identity.id

    @property
    def roster(self) -> Roster:
        return self._roster

    @property
    def members(self) -> Mapping[DeviceId, Member]:
        return self._roster.members

    @property
    def me(self) -> Member | None:
        """None once this device was put out."""
        return self._roster.members.get(self.id)

    @property
    def fingerprint(self) -> str:
        """Short, of the home: what its devices announce."""
        return short_fingerprint(DeviceId(self._roster.home.hex()))

    def member_named(self, name: str) -> Member:
        """By name, or by the beginning of its fingerprint or id. Raises RosterError."""
        wanted = name.casefold()
        members = self.members.values()
        fitting = [member for member in members if member.name.casefold() == wanted]
        if not fitting and len(wanted) >= 4:
            fitting = [
                member
                for member in members
                if member.id.startswith(wanted) or short_fingerprint(member.id).casefold().startswith(wanted)
            ]
        if len(fitting) != 1:
            names = ", ".join(sorted(member.name for member in members))
            raise RosterError(f"No device of this home is called {name!r}.", hint=f"Its devices: {names}.")
        return fitting[0]

    # --- the trust

    def doors(self) -> Mapping[Purpose, Door]:
        server, _ = self._of_members()
        of_members = Door(server, lambda certificate: self.proven(certificate) is not None)
        doors = {Purpose.MEMBER: of_members, Purpose.UNITS: of_members}
        if self.invites:
            if self._pairing is None:
                self._pairing = pairing_server(self.identity)
            doors[Purpose.PAIRING] = Door(self._pairing, lambda _: True)
        return doors

    def door_to(self, expected: DeviceId | None) -> Door:
        _, client = self._of_members()

        def is_admitted(certificate: bytes | None) -> bool:
            proven = self.proven(certificate)
            return proven is not None and expected in (None, proven.id)

        return Door(client, is_admitted)

    def proven(self, certificate: bytes | None) -> Proven | None:
        if certificate is None:
            return None
        member = self.members.get(device_id_of(certificate))
        return Proven(member.id, member.role) if member is not None else None

    def _of_members(self) -> tuple[ssl.SSLContext, ssl.SSLContext]:
        if self._contexts is None:
            certificates = self._roster.certificates
            self._contexts = member_server(self.identity, certificates), member_client(self.identity, certificates)
        return self._contexts

    # --- what changes

    async def change(self, make: Callable[[Roster], Roster]) -> list[Statement]:
        """What a person wants, and the others have to hear: kept first, in force then.

        Raises RosterError by `make`, ConfigError of the disk.
        """
        async with self._writing:
            made = merged(make(self._roster), self._roster)
            await asyncio.to_thread(save_roster, self._state_dir, made)
            self._kept = made.keys
            return self._set(merged(made, self._roster))  # which may have heard news meanwhile

    def hear(self, statements: Iterable[Statement]) -> list[Statement]:
        """What of it is new, and genuine; it is in force at once, and kept soon. Raises RosterError for too much."""
        new = self._set(received(self._roster, statements))
        if new:
            self._unsaved.set()
        return new

    async def keep_saved(self) -> None:
        """Until cancelled: writes what was heard."""
        while True:
            await self._unsaved.wait()
            await self.save()
            await asyncio.sleep(_SAVE_S)

    async def save(self) -> None:
        """Write what was heard, if anything was."""
        async with self._writing:
            if not self._unsaved.is_set() or self._moved:
                return
            self._unsaved.clear()
            roster = self._roster
            try:
                if roster.keys != self._kept:
                    await asyncio.to_thread(save_roster, self._state_dir, roster)
                    self._kept = roster.keys
                await asyncio.to_thread(save_whereabouts, self._state_dir, self.whereabouts, self.members)
            except ConfigError as error:  # a full disk: it is heard again at the next start
                _logger.warning("home_not_saved reason=%s", error)

    async def move(self, roster: Roster, whereabouts: Whereabouts) -> None:
        """From the next start on, this device belongs to the home of that roster. Raises ConfigError."""
        async with self._writing:
            await asyncio.to_thread(save_roster, self._state_dir, roster)
            await asyncio.to_thread(save_whereabouts, self._state_dir, whereabouts, roster.members)
            self._moved = True

    def _set(self, roster: Roster) -> list[Statement]:
        """The statements that it has and the one before had not."""
        before = self._roster
        if roster.keys == before.keys:
            return []
        self._roster = roster
        self._contexts = None
        self.on_change()
        return [statement for statement in roster.statements if key_of(statement) not in before.keys]


def _new_identity(state_dir: Path) -> Identity:
    path = state_dir / IDENTITY_FILE
    try:
        path.unlink()
    except OSError as error:
        raise ConfigError(
            f"{path}, which the home does not accept any more, cannot be removed: {error.strerror}.",
            hint="Give tpid a state directory that it may write.",
        ) from error
    return load_or_create_identity(state_dir)
