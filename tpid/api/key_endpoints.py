"""Creating, listing and revoking keys of the API. On the Unix socket only: who may control the daemon may do this."""

import asyncio

from aiohttp import web

from tpid.api.bodies import KeyBody
from tpid.api.keys import ApiKeys
from tpid.api.request_body import parse


class KeyEndpoints:
    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._turn = asyncio.Lock()  # a change is written before the next one begins

    async def list(self, request: web.Request) -> web.Response:
        keys = [{"name": key.name, "created_s": key.created_s} for key in self._keys.keys]
        return web.json_response({"keys": keys})

    async def create(self, request: web.Request) -> web.Response:
        body = await parse(request, KeyBody)
        async with self._turn:
            key = await asyncio.to_thread(self._keys.create, body.name)
        return web.json_response({"name": body.name, "key": key})

    async def revoke(self, request: web.Request) -> web.Response:
        body = await parse(request, KeyBody)
        async with self._turn:
            await asyncio.to_thread(self._keys.revoke, body.name)
        return web.json_response({"revoked": body.name})
