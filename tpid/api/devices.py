"""The devices of the home: who they are, who comes in, who goes."""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from aiohttp import web

from tpid.api.bodies import InviteBody, JoinBody, LeaveBody, RemoveBody
from tpid.api.lines import stream_lines
from tpid.api.request_body import parse
from tpid.cluster.cluster import Cluster
from tpid.cluster.home import Home
from tpid.cluster.identity.certificate import fingerprint, short_fingerprint
from tpid.cluster.invitation import Invitation, Opened, Tried
from tpid.cluster.joining import Found, Joining, Looking, Waiting
from tpid.cluster.pairing.actions import Invited, Joined
from tpid.cluster.roster.roster import Member, revoke
from tpid.device import Role
from tpid.errors import RosterError


class DeviceEndpoints:
    def __init__(self, cluster: Cluster, home: Home, on_moved: Callable[[], None]) -> None:
        """`on_moved` is called when this device belongs to another home than before."""
        self._cluster = cluster
        self._home = home
        self._on_moved = on_moved

    async def list_(self, request: web.Request) -> web.Response:
        """The members of this home."""
        members = sorted(self._home.members.values(), key=lambda member: (member.id != self._home.id, member.name))
        strangers = [
            {
                "name": sighting.advert.name,
                "address": str(sighting.addresses[0]),
                "home": sighting.advert.home,
                "protocol_version": sighting.advert.protocol_version,
            }
            for sighting in self._cluster.strangers()
        ]
        return web.json_response(
            {
                "home": self._home.fingerprint,
                "devices": [self._describe(member) for member in members],
                "strangers": strangers,
            }
        )

    async def invite(self, request: web.Request) -> web.StreamResponse:
        """Lines of JSON: {"code": …}, {"tried": …} for each wrong code, then {"invited": …} or {"error": …}. The
        invitation ends with the connection."""
        body = await parse(request, InviteBody)
        return await stream_lines(request, self._invite_lines(Role(body.role)))

    async def join(self, request: web.Request) -> web.StreamResponse:
        """Lines of JSON: {"looking": …}, {"found": …}, {"waiting": …}, then {"joined": …} or {"error": …}."""
        body = await parse(request, JoinBody)
        return await stream_lines(request, self._join_lines(body))

    async def remove(self, request: web.Request) -> web.Response:
        body = await parse(request, RemoveBody)
        member = self._home.member_named(body.name)
        if member.id == self._home.id:
            raise RosterError("This is the device itself.", hint="To take it out of the home: `tpictl leave`.")
        await self._revoke(member)
        return web.json_response({"removed": _named(member)})

    async def leave(self, request: web.Request) -> web.Response:
        await parse(request, LeaveBody)
        me = self._home.me
        others = sorted(member.name for member in self._home.members.values() if member.id != self._home.id)
        if me is None or not others:
            raise RosterError("This device is alone in its home: there is nothing to leave.")
        await self._revoke(me)
        return web.json_response({"left": others})

    async def _revoke(self, member: Member) -> None:
        self._cluster.tell(await self._home.change(lambda roster: revoke(roster, self._home.identity, member.id)))

    async def _invite_lines(self, role: Role) -> AsyncGenerator[dict[str, Any], None]:
        me = self._home.me
        async with aclosing(Invitation(self._cluster, self._home).run(role)) as events:
            async for event in events:
                match event:
                    case Opened(code, valid_s):
                        yield {
                            "code": code,
                            "valid_s": valid_s,
                            "role": role,
                            "device": _named(me) if me is not None else None,
                            "addresses": self._cluster.addresses(),
                        }
                    case Tried(address, tries_left):
                        yield {"tried": {"address": address, "tries_left": tries_left}}
                    case Invited(device, name, granted, acknowledged):
                        invited = {"name": name, "id": device, "fingerprint": fingerprint(device), "role": granted}
                        yield {"invited": invited | {"acknowledged": acknowledged}}

    async def _join_lines(self, body: JoinBody) -> AsyncGenerator[dict[str, Any], None]:
        joining = Joining(self._cluster, self._home)
        async with aclosing(joining.run(body.code, body.address)) as events:
            async for event in events:
                match event:
                    case Looking(seen):
                        yield {"looking": {"seen": list(seen)}}
                    case Found(name, address):
                        yield {"found": {"name": name, "address": address}}
                    case Waiting(name):
                        yield {"waiting": {"name": name}}
                    case Joined() as joined:
                        try:
                            yield {
                                "joined": {
                                    "name": joined.name,
                                    "id": self._home.id,
                                    "fingerprint": fingerprint(self._home.id),
                                    "role": joined.role,
                                    "inviter": joined.inviter_name,
                                    "inviter_fingerprint": fingerprint(joined.inviter),
                                }
                            }
                        finally:  # it is in, whether anybody has read so or not
                            self._on_moved()

    def _describe(self, member: Member) -> dict[str, Any]:
        connection = self._cluster.peers.get(member.id)
        is_me = member.id == self._home.id
        known = [str(address) for address in self._home.whereabouts.of(member.id)]
        return _named(member) | {
            "role": member.role,
            "is_me": is_me,
            "connected": is_me or connection is not None,
            "addresses": self._cluster.addresses() if is_me else known,
            "rtt_s": connection.rtt_s if connection is not None else None,
            "last_seen": self._home.whereabouts.last_seen(member.id),
        }


def _named(member: Member) -> dict[str, Any]:
    return {
        "name": member.name,
        "id": member.id,
        "fingerprint": fingerprint(member.id),
        "short_fingerprint": short_fingerprint(member.id),
    }
