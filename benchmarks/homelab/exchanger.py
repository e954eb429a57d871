"""One rank of an allreduce on a host of a home, over tpid's own connections; orders on stdin, times on stdout.

python -m homelab.exchanger RANK ADDRESS,ADDRESS,...     from the directory benchmarks

    begin DIRECT_TOKENS HIDDEN N_TOKENS   DIRECT_TOKENS 0: by the star
    run STEPS                             JSON: the seconds of each step
"""

import asyncio
import json
import os
import sys
import time

import numpy as np
import uvloop

from tpid.comm.connection import Connection
from tpid.comm.dialling import dial
from tpid.comm.exchange import Exchange, make_exchange
from tpid.comm.frames import Header
from tpid.comm.listener import Listener
from tpid.comm.messages import Hello, Kind
from tpid.comm.settings import CommSettings
from tpid.comm.tensors import StartHeader, TensorHeader
from tpid.comm.wire_dtype import WireDtype
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.errors import TpidError

PORT = 7000
SETTINGS = CommSettings(allow_unencrypted_network=True)


class Rank:
    """Its connections to all others; those of lower ranks are dialled."""

    def __init__(self, rank: int, addresses: list[str]) -> None:
        self._rank = rank
        self._addresses = addresses
        self._links: dict[int, Connection] = {}
        self._joined = asyncio.Event()
        self._exchange: Exchange | None = None
        self._term = self._step = 0

    def payload_buffer(
        self, connection: Connection, kind: Kind, header: StartHeader | TensorHeader, size_bytes: int
    ) -> memoryview | None:
        assert isinstance(header, TensorHeader)
        assert self._exchange is not None
        return self._exchange.payload_buffer(kind, connection, header, size_bytes)

    def received(self, connection: Connection, kind: Kind, message: Header, payload: memoryview | None) -> None:
        assert isinstance(message, TensorHeader)
        assert self._exchange is not None
        self._exchange.received(kind, connection, message, payload)

    def lost(self, connection: Connection, error: TpidError) -> None:
        os._exit(1)

    async def join(self) -> Listener:
        listener = await Listener.listen(
            self._addresses[self._rank],
            PORT,
            hello=self._hello,
            accept=lambda hello: None,
            on_connection=self._adopt,
            settings=SETTINGS,
        )
        for other in range(self._rank):
            while other not in self._links:
                try:
                    self._adopt(await dial([(self._addresses[other], PORT)], self._hello, SETTINGS))
                except TpidError:
                    await asyncio.sleep(0.1)
        await self._joined.wait()
        return listener

    def begin(self, direct_tokens: int, hidden_size: int, n_tokens: int) -> None:
        if self._exchange is not None:
            self._exchange.close()
        self._term += 1
        self._step = 0
        self._exchange = make_exchange(
            self._term,
            self._rank,
            self._links,
            hidden_size=hidden_size,
            max_tokens=n_tokens,
            wire_dtype=WireDtype.FP32,
            direct_tokens=direct_tokens,
        )
        self._exchange.begin(1, n_tokens)
        self._partial = np.ones((n_tokens, hidden_size), np.float32)

    async def run(self, steps: int) -> list[float]:
        """Raises ValueError where a sum is wrong."""
        assert self._exchange is not None
        times = []
        for _ in range(steps):
            began_s = time.perf_counter()
            total = await self._exchange.reduce(self._step, self._partial)
            times.append(time.perf_counter() - began_s)
            self._step += 1
            if not (total == len(self._addresses)).all():
                raise ValueError(f"the sum is {total}")
        return times

    def _adopt(self, connection: Connection) -> None:
        self._links[int(connection.peer.id, 16)] = connection
        connection.set_receiver(self)
        if len(self._links) == len(self._addresses) - 1:
            self._joined.set()

    def _hello(self) -> Hello:
        profile = DeviceProfile(
            DeviceId(f"{self._rank:064x}"), f"r{self._rank}", Role.USER, "0", 2**33, 2**32, 2**36, 1, 1e9, "native"
        )
        return Hello(cluster="benchmark", profile=profile)


async def main() -> None:
    rank = Rank(int(sys.argv[1]), sys.argv[2].split(","))
    listener = await rank.join()
    print("joined", flush=True)
    while words := (await asyncio.to_thread(sys.stdin.readline)).split():
        if words[0] == "begin":
            rank.begin(*(int(word) for word in words[1:]))
            print("ready", flush=True)
        else:
            print(json.dumps(await rank.run(int(words[1]))), flush=True)
    await listener.close()
    os._exit(0)


if __name__ == "__main__":
    uvloop.run(main())
