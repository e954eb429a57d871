"""The star: rank 0 is the hub, takes in all partials, and sends the sum.

The hub adds the partials in the order of the ranks, whatever the order of arrival, so the same request gives the
same bits each time; all ranks go on with the very values that were sent, so their copies stay identical whatever
the wire dtype. The sum is formed and sent by whatever comes in last: in the receive callback as often as not, so
that no peer waits for a task of the hub to wake up.

One slot a peer is enough: a leaf sends its next partial only after a sum, and by then its slot has been read.
A star lives as long as its plan, that is one term. Frames of an older term or pass, or of a pass that has failed
here, are skipped; frames that no peer in its right mind would send raise RemoteProtocolError.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping

import numpy as np

from tpid.comm.allreduce import STEP_TIMEOUT_S, Link
from tpid.comm.messages import Kind
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import F32, WireDtype, add_decoded, decode_tensor, encode_tensor, wire_bytes
from tpid.errors import DeviceLostError, LocalProtocolError, RemoteProtocolError, TpidError


class _Star:
    """What hub and leaf have in common: where the pass stands, the results, and the wait."""

    def __init__(
        self, term: int, hidden_size: int, max_tokens: int, wire_dtype: WireDtype, step_timeout_s: float
    ) -> None:
        self._term = term
        self._hidden_size = hidden_size
        self._max_tokens = max_tokens
        self._wire_dtype = wire_dtype
        self._step_timeout_s = step_timeout_s
        self._wire_row_bytes = wire_bytes(wire_dtype, 1, hidden_size)
        # Two, because the sum of a step is formed while the one before may still be read.
        self._sums = np.empty((2, max_tokens, hidden_size), np.float32)
        self._sum_bytes = [memoryview(rows.reshape(-1).view(np.uint8)) for rows in self._sums]
        self._fp32_as_it_is = wire_dtype is WireDtype.FP32 and sys.byteorder == "little"
        self._pass_id = -1
        self._n_tokens = 0
        self._payload_bytes = 0  # of a partial or sum that is not zero
        self._results = self._sums[0, :0], self._sums[1, :0]
        self._step = 0  # the step whose sum is formed next
        self._failure: TpidError | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._waits_since_s = 0.0
        self._watchdog: asyncio.TimerHandle | None = None

    def begin(self, pass_id: int, n_tokens: int) -> None:
        if pass_id <= self._pass_id or not 1 <= n_tokens <= self._max_tokens:
            raise LocalProtocolError(
                f"Pass {pass_id} of {n_tokens} tokens cannot follow pass {self._pass_id}, limit {self._max_tokens}."
            )
        if self._waiter is not None and not self._waiter.done():
            raise LocalProtocolError(f"Pass {pass_id} begins while pass {self._pass_id} waits.")
        self._waiter = None
        self._pass_id = pass_id
        self._n_tokens = n_tokens
        self._payload_bytes = n_tokens * self._wire_row_bytes
        self._results = self._sums[0, :n_tokens], self._sums[1, :n_tokens]
        self._step = 0
        self._failure = None

    def fail(self, error: TpidError) -> None:
        if self._failure is None:
            self._failure = error
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure)

    def _check_reduce(self, step: int, partial: F32 | None) -> None:
        if self._failure is not None:
            raise self._failure
        if self._pass_id < 0 or step != self._step or self._waiter is not None:
            raise LocalProtocolError(f"Step {step} of pass {self._pass_id} is reduced, step {self._step} is next.")
        if partial is not None and (
            partial.shape != (self._n_tokens, self._hidden_size) or partial.dtype != np.float32
        ):
            raise LocalProtocolError(
                f"A partial of {partial.dtype} {partial.shape} was given instead of "
                f"float32 {(self._n_tokens, self._hidden_size)}."
            )

    def _is_stale(self, header: TensorHeader) -> bool:
        """Whether the frame is of a pass that is over here."""
        if header.term != self._term:
            if header.term < self._term:
                return True
            raise RemoteProtocolError(f"A frame of term {header.term} came in term {self._term}.")
        if header.pass_id != self._pass_id:
            if header.pass_id < self._pass_id:
                return True
            raise RemoteProtocolError(f"A frame of pass {header.pass_id} came in pass {self._pass_id}.")
        return self._failure is not None

    def _check_header(self, header: TensorHeader) -> None:
        if header.step != self._step:
            raise RemoteProtocolError(f"A frame of step {header.step} came in step {self._step}.")
        if header.n_tokens not in (0, self._n_tokens):
            raise RemoteProtocolError(f"A frame of {header.n_tokens} tokens came in a pass of {self._n_tokens}.")
        if header.wire_dtype is not self._wire_dtype:
            raise RemoteProtocolError(f"A frame in {header.wire_dtype} came where the plan says {self._wire_dtype}.")

    def _check_payload(self, header: TensorHeader, size_bytes: int) -> None:
        self._check_header(header)
        expected = self._payload_bytes if header.n_tokens else 0
        if size_bytes != expected:
            raise RemoteProtocolError(
                f"A payload of {size_bytes} bytes came for {header.n_tokens} tokens, {expected} are right."
            )

    def _header(self, has_payload: bool) -> TensorHeader:
        n_tokens = self._n_tokens if has_payload else 0
        return TensorHeader(self._term, self._pass_id, self._step, n_tokens, self._wire_dtype)

    async def _wait(self) -> None:
        """Until the sum of this step is there. Raises what `fail` was given."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        self._waits_since_s = loop.time()
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._step_timeout_s, self._look)
        try:
            await waiter
        except asyncio.CancelledError:
            if self._waiter is waiter and self._failure is None:
                self._failure = LocalProtocolError(f"Pass {self._pass_id} was cancelled in step {self._step}.")
            raise
        finally:
            if self._waiter is waiter:  # else the next pass has begun already
                self._waiter = None

    def _wake(self) -> None:
        self._step += 1
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _look(self) -> None:
        """One timer for many steps: it is moved when it fires, not at each step."""
        self._watchdog = None
        if self._waiter is None or self._waiter.done():
            return
        loop = asyncio.get_running_loop()
        due_s = self._waits_since_s + self._step_timeout_s
        if loop.time() < due_s:
            self._watchdog = loop.call_at(due_s, self._look)
        else:
            self.fail(
                DeviceLostError(
                    f"Step {self._step} of pass {self._pass_id} has waited {self._step_timeout_s:g} s "
                    f"for {self._missing()}."
                )
            )

    def _missing(self) -> str:
        raise NotImplementedError


class StarHub(_Star):
    """Rank 0: takes in the partials of all `leaves` (rank to link, ranks 1, 2, …) and sends the sum."""

    def __init__(
        self,
        term: int,
        leaves: Mapping[int, Link],
        *,
        hidden_size: int,
        max_tokens: int,
        wire_dtype: WireDtype,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        super().__init__(term, hidden_size, max_tokens, wire_dtype, step_timeout_s)
        if not leaves or sorted(leaves) != list(range(1, len(leaves) + 1)):
            raise LocalProtocolError(f"The leaves of a star have the ranks {sorted(leaves)} instead of 1, 2, ….")
        slot_bytes = max_tokens * self._wire_row_bytes
        self._leaves = [_Leaf(rank, leaves[rank], slot_bytes) for rank in sorted(leaves)]
        self._leaf_of = {leaf.link: leaf for leaf in self._leaves}
        self._encoded = memoryview(bytearray(0 if self._fp32_as_it_is else slot_bytes))
        self._own: F32 | None = None
        self._own_in = False
        self._added = 0  # ranks below this one are in the sum
        self._sum_is_zero = True

    def begin(self, pass_id: int, n_tokens: int) -> None:
        super().begin(pass_id, n_tokens)
        self._clear_step()

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        self._check_reduce(step, partial)
        result = self._results[step % 2]
        self._own = partial
        self._own_in = True
        self._advance()
        if self._failure is not None:
            raise self._failure
        if self._step == step:
            await self._wait()
        return result

    def payload_buffer(self, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        if self._is_stale(header):
            return None
        self._check_payload(header, size_bytes)
        return self._expected_from(link).slot

    def received(self, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        if self._is_stale(header):
            return
        self._check_header(header)
        leaf = self._expected_from(link)
        leaf.payload = payload
        leaf.is_in = True
        self._advance()

    def _expected_from(self, link: Link) -> _Leaf:
        leaf = self._leaf_of.get(link)
        if leaf is None:
            raise RemoteProtocolError("A partial came from a device that is not in the plan.")
        if leaf.is_in:
            raise RemoteProtocolError(f"A second partial of step {self._step} came.")
        return leaf

    def _advance(self) -> None:
        """Add what can be added in the order of the ranks; with the last one, send the sum."""
        total = self._results[self._step % 2]
        if self._added == 0:
            if not self._own_in:
                return
            if self._own is not None:
                np.copyto(total, self._own)
                self._sum_is_zero = False
            self._added = 1
        for leaf in self._leaves[self._added - 1 :]:
            if not leaf.is_in:
                return
            if leaf.payload is not None:
                # The first is copied, not added to zero: that would turn -0 into 0.
                put = decode_tensor if self._sum_is_zero else add_decoded
                put(leaf.payload, self._wire_dtype, total)
                self._sum_is_zero = False
            self._added += 1
        self._send_sum(total)
        self._clear_step()
        self._wake()

    def _send_sum(self, total: F32) -> None:
        header = self._header(not self._sum_is_zero)
        payload = None
        if self._sum_is_zero:
            total.fill(0)
        elif self._fp32_as_it_is:
            payload = self._sum_bytes[self._step % 2][: self._payload_bytes]
        else:
            payload = self._encoded[: self._payload_bytes]
            encode_tensor(total, self._wire_dtype, payload)
        try:
            for leaf in self._leaves:
                leaf.link.send_tensor(Kind.SUM, header, payload)
        except DeviceLostError as error:
            self.fail(error)  # not raised: this may be the callback of another, innocent leaf
        if payload is not None and not self._fp32_as_it_is:
            decode_tensor(payload, self._wire_dtype, total)

    def _clear_step(self) -> None:
        self._own = None
        self._own_in = False
        self._added = 0
        self._sum_is_zero = True
        for leaf in self._leaves:
            leaf.is_in = False
            leaf.payload = None

    def _missing(self) -> str:
        ranks = [str(leaf.rank) for leaf in self._leaves if not leaf.is_in]
        return f"the partial of rank {', '.join(ranks)}"


class _Leaf:
    """What the hub knows of a leaf in the step at hand."""

    __slots__ = ("is_in", "link", "payload", "rank", "slot")

    def __init__(self, rank: int, link: Link, slot_bytes: int) -> None:
        self.rank = rank
        self.link = link
        self.slot = memoryview(bytearray(slot_bytes))
        self.is_in = False
        self.payload: memoryview | None = None  # what of the slot is the partial; None where it is all zero


class StarLeaf(_Star):
    """Any other rank: sends its partial to the `hub` and gets the sum."""

    def __init__(
        self,
        term: int,
        hub: Link,
        *,
        hidden_size: int,
        max_tokens: int,
        wire_dtype: WireDtype,
        step_timeout_s: float = STEP_TIMEOUT_S,
    ) -> None:
        super().__init__(term, hidden_size, max_tokens, wire_dtype, step_timeout_s)
        self._hub = hub
        buffer_bytes = 0 if self._fp32_as_it_is else max_tokens * self._wire_row_bytes
        self._encoded = memoryview(bytearray(buffer_bytes))
        self._slot = memoryview(bytearray(buffer_bytes))
        self._sent = False  # the partial of this step

    def begin(self, pass_id: int, n_tokens: int) -> None:
        super().begin(pass_id, n_tokens)
        self._sent = False

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        self._check_reduce(step, partial)
        payload = None
        if partial is not None and self._fp32_as_it_is:
            payload = memoryview(np.ascontiguousarray(partial)).cast("B")
        elif partial is not None:
            payload = self._encoded[: self._payload_bytes]
            encode_tensor(partial, self._wire_dtype, payload)
        self._hub.send_tensor(Kind.PARTIAL, self._header(partial is not None), payload)
        self._sent = True
        result = self._results[step % 2]
        await self._wait()
        return result

    def payload_buffer(self, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        if self._is_stale(header):
            return None
        self._check_payload(header, size_bytes)
        self._check_expected(link)
        return self._sum_bytes[self._step % 2] if self._fp32_as_it_is else self._slot

    def received(self, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        if self._is_stale(header):
            return
        self._check_header(header)
        self._check_expected(link)
        if payload is None:
            self._results[self._step % 2].fill(0)
        elif not self._fp32_as_it_is:
            decode_tensor(payload, self._wire_dtype, self._results[self._step % 2])
        self._sent = False
        self._wake()

    def _check_expected(self, link: Link) -> None:
        if link is not self._hub:
            raise RemoteProtocolError("A sum came from a device that is not the hub of the plan.")
        if not self._sent:
            raise RemoteProtocolError(f"The sum of step {self._step} came before this rank's partial was sent.")

    def _missing(self) -> str:
        return "the sum of the hub"
