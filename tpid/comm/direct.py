"""The direct exchange: each rank sends its partial to all others, and all add them in the order of the ranks.

One way over the network instead of two. Every partial counts as it was on the wire, a rank's own included, and the sum
is rounded as a star's is when it is sent: so all ranks have the same bits, which are those of the star. The star stays
for what is large: here each rank sends to all others.

Who has all partials of a step goes on at once, so a peer may be one step ahead, or at the beginning of a pass whose
START has not come here yet: each peer has a slot for the step at hand and one for what it sends ahead.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from tpid.comm.allreduce import STEP_TIMEOUT_S, Link, is_finite
from tpid.comm.frames import ExpectedFrame
from tpid.comm.heads import Heads
from tpid.comm.messages import Kind
from tpid.comm.patience import MOST_S
from tpid.comm.star_rank import StarRank
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import F32, WireDtype, add_decoded, decode_tensor, encode_tensor
from tpid.errors import DeviceLostError, LocalProtocolError, NumericError, PassDroppedError, RemoteProtocolError

HUB: Final = 0  # the rank that has sent START: it tells the others how a pass ended


@dataclass(frozen=True, slots=True)
class _Ahead:
    """A partial that has come before its step."""

    header: TensorHeader
    payload: memoryview | None


class DirectRank(StarRank):
    """Any rank; `links` has all others by number. Partials go to rank 0 as PARTIAL, to others as PEER_PARTIAL."""

    def __init__(
        self,
        term: int,
        rank: int,
        links: Mapping[int, Link],
        *,
        hidden_size: int,
        max_tokens: int,
        wire_dtype: WireDtype,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        super().__init__(term, hidden_size, max_tokens, wire_dtype, step_timeout_s)
        if not links or sorted([*links, rank]) != list(range(len(links) + 1)):
            raise LocalProtocolError(f"Rank {rank} exchanges with the ranks {sorted(links)}: some are missing.")
        self._rank = rank
        slot_bytes = max_tokens * self._wire_row_bytes
        self._peers = [_Peer(number, links[number], slot_bytes) for number in sorted(links)]
        self._peer_of = {peer.link: peer for peer in self._peers}
        # Two, because the payload of a step may still be sent when the next is ready. When the one after that is, all
        # peers have answered.
        self._encoded = [memoryview(bytearray(slot_bytes)) for _ in range(2)]
        self._rounding = memoryview(bytearray(0 if self._fp32_as_it_is else slot_bytes))
        self._own: memoryview | None = None  # this rank's partial, as it is on the wire; None where it is zero
        self._own_in = False

    def close(self) -> None:
        super().close()
        self._peers.clear()
        self._peer_of.clear()
        self._encoded = [memoryview(b"")] * 2
        self._own = None

    def begin(self, pass_id: int, n_tokens: int) -> None:
        super().begin(pass_id, n_tokens)
        self._peer_head = Heads(Kind.PEER_PARTIAL, self._header(n_tokens), self._payload_bytes)
        self._zero_peer_head = Heads(Kind.PEER_PARTIAL, self._header(0), 0)
        self._own_in = False
        for peer in self._peers:
            peer.clear()
            self._take_ahead(peer)

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        self._check_reduce(step, partial)
        result = self._results[step % 2]
        self._own = None
        if partial is not None:
            self._own = self._encoded[step % 2][: self._payload_bytes]
            encode_tensor(partial, self._wire_dtype, self._own)
        self._own_in = True
        self._send(step)
        if self._failure is None:
            self._advance()
        if self._failure is not None:
            raise self._failure.again()
        if self._step == step:
            self._expect_partials(step)
            if not self._stayed(step):
                await self._wait()
        for peer in self._peers:
            peer.link.flush(MOST_S)
        return result

    def payload_buffer(self, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        peer = self._peer(link)
        if self._is_over(header):
            return None
        if self._is_now(header):
            self._check_payload(header, size_bytes)
            self._check_first(peer)
            return peer.now
        self._check_ahead(peer, header)
        if size_bytes != header.n_tokens * self._wire_row_bytes:
            raise RemoteProtocolError(f"A payload of {size_bytes} bytes came for {header.n_tokens} tokens.")
        peer.ahead = None
        return peer.later

    def received(self, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        peer = self._peer(link)
        if self._is_over(header):
            return
        if not self._is_now(header):
            self._check_ahead(peer, header)
            peer.ahead = _Ahead(header, payload)
            return
        self._check_header(header)
        self._check_first(peer)
        if payload is not None and payload.obj is peer.later.obj:  # its step has begun while it came
            peer.swap()
        if peer.expected is not None:
            peer.expected = None
            peer.link.expect(None)
        peer.payload = payload
        peer.is_in = True
        self._advance()

    # --- what has come

    def _peer(self, link: Link) -> _Peer:
        peer = self._peer_of.get(link)
        if peer is None:
            raise RemoteProtocolError("A partial came from a device that is not in the plan.")
        return peer

    def _is_over(self, header: TensorHeader) -> bool:
        """Whether the frame is of a pass that is over here; a newer one than ours may have begun elsewhere."""
        if header.term > self._term:
            raise RemoteProtocolError(f"A frame of term {header.term} came in term {self._term}.")
        if header.term < self._term or header.pass_id < self._pass_id:
            return True
        return header.pass_id == self._pass_id and self._failure is not None

    def _is_now(self, header: TensorHeader) -> bool:
        return header.pass_id == self._pass_id and header.step == self._step

    def _check_first(self, peer: _Peer) -> None:
        if peer.is_in:
            raise RemoteProtocolError(f"A second partial of step {self._step} came.")

    def _check_ahead(self, peer: _Peer, header: TensorHeader) -> None:
        """Of the next step, when that of this one is here; or of the first step of a newer pass."""
        in_pass = header.pass_id == self._pass_id
        if not in_pass and self._rank == HUB:
            raise RemoteProtocolError(f"A frame of pass {header.pass_id} came in pass {self._pass_id}.")
        may_be_ahead = not in_pass or (peer.is_in and self._own_in)
        if not may_be_ahead or header.step != (self._step + 1 if in_pass else 0):
            raise RemoteProtocolError(f"A partial of step {header.step} came in step {self._step}.")
        if not 0 <= header.n_tokens <= (self._n_tokens if in_pass else self._max_tokens):
            raise RemoteProtocolError(f"A partial of {header.n_tokens} tokens came, {self._max_tokens} are the most.")
        if header.wire_dtype is not self._wire_dtype:
            raise RemoteProtocolError(f"A frame in {header.wire_dtype} came where the plan says {self._wire_dtype}.")
        if peer.ahead is not None and peer.ahead.header.pass_id >= header.pass_id:
            raise RemoteProtocolError(f"A second partial of step {header.step} came.")

    def _take_ahead(self, peer: _Peer) -> None:
        """What the peer has sent ahead is of the step that begins now, or waits on, or is over."""
        ahead = peer.ahead
        if ahead is None or ahead.header.pass_id > self._pass_id:
            return
        peer.ahead = None
        if self._is_now(ahead.header):
            if ahead.header.n_tokens not in (0, self._n_tokens):
                self.fail(
                    RemoteProtocolError(
                        f"A partial of {ahead.header.n_tokens} tokens came in a pass of {self._n_tokens}."
                    )
                )
                return
            peer.swap()
            peer.payload = ahead.payload
            peer.is_in = True

    def _arrived(self, peer: _Peer, head: bytes) -> None:
        if head is not peer.expected or self._failure is not None:
            return  # of a pass that has ended while its payload came
        peer.expected = None
        peer.payload = peer.now[: self._payload_bytes]
        peer.is_in = True
        self._advance()

    # --- the step

    def _send(self, step: int) -> None:
        to_hub = (self._zero_partial_head if self._own is None else self._partial_head)(step)
        to_peer = (self._zero_peer_head if self._own is None else self._peer_head)(step)
        try:
            for peer in self._peers:
                peer.link.send_frame(to_hub if peer.rank == HUB else to_peer, self._own)
        except DeviceLostError as error:
            self.fail(error)

    def _expect_partials(self, step: int) -> None:
        head = (self._partial_head if self._rank == HUB else self._peer_head)(step)
        for peer in self._peers:
            if not peer.is_in:
                peer.expected = head
                arrived = _Arrival(self, peer)
                peer.link.expect(ExpectedFrame(head, peer.now[: self._payload_bytes], arrived))

    def _advance(self) -> None:
        """With the last partial, add all."""
        if not self._own_in or not all(peer.is_in for peer in self._peers):
            return
        total = self._results[self._step % 2]
        if not self._add_all(total):
            total.fill(0)
        elif not is_finite(total):
            self._refuse_sum()
            return
        elif not self._fp32_as_it_is:
            encode_tensor(total, self._wire_dtype, self._rounding[: self._payload_bytes])
            decode_tensor(self._rounding[: self._payload_bytes], self._wire_dtype, total)
        self._own_in = False
        for peer in self._peers:
            peer.clear()
        self._wake()
        for peer in self._peers:
            self._take_ahead(peer)

    def _add_all(self, total: F32) -> bool:
        """In the order of the ranks; the first is copied, not added to zero. Whether there was any."""
        any_in = False
        for payload in self._payloads():
            if payload is None:
                continue
            if any_in:
                add_decoded(payload, self._wire_dtype, total)
            else:
                decode_tensor(payload, self._wire_dtype, total)
            any_in = True
        return any_in

    def _payloads(self) -> list[memoryview | None]:
        """By rank."""
        payloads = [peer.payload for peer in self._peers]
        payloads.insert(self._rank, self._own)
        return payloads

    def _refuse_sum(self) -> None:
        """All ranks find it; who is to blame says so, and the hub ends the pass."""
        values, found = np.empty(self._shape, np.float32), []
        for rank, payload in enumerate(self._payloads()):
            if payload is not None:
                decode_tensor(payload, self._wire_dtype, values)
                if not is_finite(values):
                    found.append(rank)
        self.culprits = tuple(found)
        ranks = ", ".join(map(str, found)) or "none alone"
        text = f"The sum of step {self._step} is not a finite number; of rank {ranks}."
        self.fail(NumericError(text) if self._rank in (HUB, *found) else PassDroppedError(text))

    def _receive(self, step: int, deadline_s: float) -> None:
        for peer in self._peers:
            while not peer.is_in and self._step == step and self._failure is None:
                if not peer.link.receive(deadline_s) or time.perf_counter() > deadline_s:
                    return

    def _expect_nothing(self) -> None:
        for peer in self._peers:
            peer.expected = None
            peer.link.expect(None)

    def _missing_ranks(self) -> tuple[int, ...]:
        return tuple(peer.rank for peer in self._peers if not peer.is_in)

    def _missing(self) -> str:
        return f"the partial of rank {', '.join(map(str, self._missing_ranks()))}"

    def _header(self, n_tokens: int) -> TensorHeader:
        return TensorHeader(self._term, self._pass_id, 0, n_tokens, self._wire_dtype)


class _Peer:
    """What this rank knows of another in the step at hand."""

    __slots__ = ("ahead", "expected", "is_in", "later", "link", "now", "payload", "rank")

    def __init__(self, rank: int, link: Link, slot_bytes: int) -> None:
        self.rank = rank
        self.link = link
        self.now = memoryview(bytearray(slot_bytes))
        self.later = memoryview(bytearray(slot_bytes))
        self.is_in = False
        self.payload: memoryview | None = None
        self.ahead: _Ahead | None = None
        self.expected: bytes | None = None

    def clear(self) -> None:
        """For the next step."""
        self.is_in = False
        self.payload = None
        self.expected = None

    def swap(self) -> None:
        self.now, self.later = self.later, self.now


@dataclass(frozen=True, slots=True)
class _Arrival:
    """The payload that was expected of the peer is there."""

    rank: DirectRank
    peer: _Peer

    def __call__(self, head: bytes) -> None:
        self.rank._arrived(self.peer, head)
