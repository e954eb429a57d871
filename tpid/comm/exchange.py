"""The allreduce of a plan: small passes by the direct exchange, large ones by the star, over the same links."""

from __future__ import annotations

from collections.abc import Mapping

from tpid.comm.allreduce import Allreduce, Alone, Link
from tpid.comm.direct import HUB, DirectRank
from tpid.comm.messages import Kind
from tpid.comm.star import StarHub, StarLeaf
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import F32, WireDtype
from tpid.errors import RemoteProtocolError, TpidError


class Exchange:
    """An `Allreduce`; what it is to a rank does not depend on which of the two is at work."""

    def __init__(self, star: Allreduce, direct: DirectRank | None, direct_tokens: int) -> None:
        """Passes of up to `direct_tokens` are `direct`'s, where there is one."""
        self._star = star
        self._direct = direct
        self._direct_tokens = direct_tokens if direct is not None else 0
        self._active = star

    def begin(self, pass_id: int, n_tokens: int) -> None:
        if self._direct is not None and n_tokens <= self._direct_tokens:
            self._active = self._direct
        else:
            self._active = self._star
        self._active.begin(pass_id, n_tokens)

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        return await self._active.reduce(step, partial)

    @property
    def pass_id(self) -> int:
        return self._active.pass_id

    @property
    def step(self) -> int:
        return self._active.step

    @property
    def waits_for(self) -> tuple[int, ...]:
        return self._active.waits_for

    @property
    def culprits(self) -> tuple[int, ...]:
        return self._active.culprits

    def fail(self, error: TpidError) -> None:
        self._active.fail(error)

    def close(self) -> None:
        self._star.close()
        if self._direct is not None:
            self._direct.close()

    def payload_buffer(self, kind: Kind, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        """As `Allreduce.payload_buffer`. Raises RemoteProtocolError."""
        return self._of(kind).payload_buffer(link, header, size_bytes)

    def received(self, kind: Kind, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        """As `Allreduce.received`. Raises RemoteProtocolError."""
        self._of(kind).received(link, header, payload)

    def _of(self, kind: Kind) -> Allreduce:
        """PARTIAL is of either; a pass that is over has ended in both, or is older than what is at work."""
        if kind is Kind.PARTIAL:
            return self._active
        if kind is Kind.SUM:
            return self._star
        if self._direct is None:
            raise RemoteProtocolError("A partial for all ranks came where the plan has a star.")
        return self._direct


def make_exchange(
    term: int,
    rank: int,
    links: Mapping[int, Link],
    *,
    hidden_size: int,
    max_tokens: int,
    wire_dtype: WireDtype,
    direct_tokens: int,
) -> Exchange:
    """That of `rank`. `links` has all other ranks, of a worker without direct exchange rank 0 only."""
    if not links:
        return Exchange(Alone(hidden_size), None, 0)
    star: Allreduce
    if rank == HUB:
        star = StarHub(term, links, hidden_size=hidden_size, max_tokens=max_tokens, wire_dtype=wire_dtype)
    else:
        star = StarLeaf(term, links[HUB], hidden_size=hidden_size, max_tokens=max_tokens, wire_dtype=wire_dtype)
    direct = None
    if direct_tokens:
        most = min(direct_tokens, max_tokens)
        direct = DirectRank(term, rank, links, hidden_size=hidden_size, max_tokens=most, wire_dtype=wire_dtype)
    return Exchange(star, direct, direct_tokens)
