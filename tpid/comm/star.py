"""The star: rank 0 is the hub, takes in all partials, and sends the sum.

The hub adds the partials in the order of the ranks, all as they are on the wire and whatever the order of arrival, so
the same request gives the same bits each time; all ranks go on with the very values that were sent, so their copies
stay identical whatever the wire dtype. The sum is formed and sent by whatever comes in last: in the receive callback as
often as not, so that no peer waits for a task of the hub to wake up.

A rank that waits knows to the byte how the next frame begins and tells its link, so that no header is decoded. And
while waits are short it stays at the socket (`tpid.comm.patience`), so that neither loop nor task stands between the
arrival and the next block. What else comes meanwhile, heartbeats and aborts, goes the usual way.

One slot a peer is enough: a leaf sends its next partial only after a sum, and by then its slot has been read.
A star lives as long as its plan, that is one term. Frames of an older term or pass, or of a pass that has failed
here, are skipped; frames that no peer in its right mind would send raise RemoteProtocolError.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial as bound

import numpy as np

from tpid.comm.allreduce import STEP_TIMEOUT_S, Link, is_finite
from tpid.comm.frames import ExpectedFrame
from tpid.comm.patience import MOST_S
from tpid.comm.star_rank import StarRank
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import F32, WireDtype, add_decoded, decode_tensor, encode_tensor
from tpid.errors import DeviceLostError, LocalProtocolError, NumericError, RemoteProtocolError


class StarHub(StarRank):
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
        self._leaves = [_Leaf(rank, leaves[rank], slot_bytes, self._arrived) for rank in sorted(leaves)]
        self._leaf_of = {leaf.link: leaf for leaf in self._leaves}
        self._encoded = memoryview(bytearray(0 if self._fp32_as_it_is else slot_bytes))
        self._own: F32 | None = None
        self._own_in = False
        self._added = 0  # ranks below this one are in the sum
        self._so_far: F32 | None = None  # their sum: None where it is zero, our own partial until others join it

    def close(self) -> None:
        super().close()
        for leaf in self._leaves:
            del leaf.arrived  # which knows the leaf, and this hub
        self._leaves.clear()
        self._leaf_of.clear()
        self._encoded = memoryview(b"")
        self._clear_step()

    def begin(self, pass_id: int, n_tokens: int) -> None:
        super().begin(pass_id, n_tokens)
        self._clear_step()
        for leaf in self._leaves:
            leaf.expected = None
            leaf.whole = leaf.slot[: self._payload_bytes]
            if self._fp32_as_it_is:
                leaf.values = np.frombuffer(leaf.whole, np.float32).reshape(n_tokens, self._hidden_size)

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        self._check_reduce(step, partial)
        result = self._results[step % 2]
        self._own = partial
        self._own_in = True
        self._advance()
        if self._failure is not None:
            raise self._failure.again()
        if self._step == step:
            self._expect_partials(step)
            if not self._stayed(step):
                await self._wait()
        for leaf in self._leaves:  # what is left of a large sum shall not wait for our next block
            leaf.link.flush(MOST_S)
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
        if leaf.expected is not None:  # it came without a payload
            leaf.expected = None
            link.expect(None)
        leaf.payload = payload
        leaf.is_in = True
        self._advance()

    def _arrived(self, leaf: _Leaf, head: bytes) -> None:
        if head is not leaf.expected or self._failure is not None:
            return  # of a pass that has ended while its payload came
        leaf.expected = None
        leaf.payload = leaf.whole
        leaf.is_in = True
        self._advance()

    def _expect_partials(self, step: int) -> None:
        head = self._partial_head(step)
        for leaf in self._leaves:
            if not leaf.is_in:
                leaf.expected = head
                leaf.link.expect(ExpectedFrame(head, leaf.whole, leaf.arrived))

    def _expect_nothing(self) -> None:
        for leaf in self._leaves:
            leaf.expected = None
            leaf.link.expect(None)

    def _receive(self, step: int, deadline_s: float) -> None:
        for leaf in self._leaves:  # in the order in which they are added
            while not leaf.is_in and self._step == step and self._failure is None:
                if not leaf.link.receive(deadline_s) or time.perf_counter() > deadline_s:
                    return

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
            self._so_far = self._own_as_sent(total)
            self._added = 1
        for leaf in self._leaves[self._added - 1 :]:
            if not leaf.is_in:
                return
            if leaf.payload is not None:
                self._add(leaf, leaf.payload, total)
            self._added += 1
        if self._so_far is not None and not is_finite(self._so_far):
            self._refuse_sum()
            return
        self._send_sum(total)
        self._clear_step()
        self._wake()

    def _own_as_sent(self, total: F32) -> F32 | None:
        """Rounded as the others' partials are, in `total`: so it does not matter for the sum who is the hub."""
        if self._own is None or self._fp32_as_it_is:
            return self._own
        payload = self._encoded[: self._payload_bytes]
        encode_tensor(self._own, self._wire_dtype, payload)
        decode_tensor(payload, self._wire_dtype, total)
        return total

    def _add(self, leaf: _Leaf, payload: memoryview, total: F32) -> None:
        so_far, self._so_far = self._so_far, total
        if self._fp32_as_it_is:
            if so_far is None:
                np.copyto(total, leaf.values)
            else:
                np.add(so_far, leaf.values, out=total)
        elif so_far is None:  # copied, not added to zero: that would turn -0 into 0
            decode_tensor(payload, self._wire_dtype, total)
        else:
            if so_far is not total:
                np.copyto(total, so_far)
            add_decoded(payload, self._wire_dtype, total)

    def _send_sum(self, total: F32) -> None:
        payload = None
        if self._so_far is None:
            total.fill(0)
        else:
            if self._so_far is not total:
                np.copyto(total, self._so_far)
            if self._fp32_as_it_is:
                payload = self._result_bytes[self._step % 2]
            else:
                payload = self._encoded[: self._payload_bytes]
                encode_tensor(total, self._wire_dtype, payload)
        head = (self._zero_sum_head if payload is None else self._sum_head)(self._step)
        try:
            for leaf in self._leaves:
                leaf.link.send_frame(head, payload)
        except DeviceLostError as error:
            self.fail(error)  # not raised: this may be the callback of another, innocent leaf
        if payload is not None and not self._fp32_as_it_is:
            decode_tensor(payload, self._wire_dtype, total)

    def _refuse_sum(self) -> None:
        """What is not a number would stay in every rank's KV cache: the pass ends here, and nobody gets the sum."""
        found = [] if self._own is None or is_finite(self._own) else [0]
        for leaf in self._leaves:
            if leaf.payload is not None:
                values = np.empty(self._shape, np.float32)
                decode_tensor(leaf.payload, self._wire_dtype, values)
                if not is_finite(values):
                    found.append(leaf.rank)
        self.culprits = tuple(found)
        ranks = ", ".join(map(str, found)) or "none alone"
        self.fail(NumericError(f"The sum of step {self._step} is not a finite number; of rank {ranks}."))

    def _clear_step(self) -> None:
        self._own = self._so_far = None
        self._own_in = False
        self._added = 0
        for leaf in self._leaves:
            leaf.is_in = False
            leaf.payload = None

    def _missing_ranks(self) -> tuple[int, ...]:
        return tuple(leaf.rank for leaf in self._leaves if not leaf.is_in)

    def _missing(self) -> str:
        return f"the partial of rank {', '.join(map(str, self._missing_ranks()))}"


class _Leaf:
    """What the hub knows of a leaf in the step at hand."""

    __slots__ = ("arrived", "expected", "is_in", "link", "payload", "rank", "slot", "values", "whole")

    def __init__(self, rank: int, link: Link, slot_bytes: int, arrived: Callable[[_Leaf, bytes], None]) -> None:
        self.rank = rank
        self.link = link
        self.slot = memoryview(bytearray(slot_bytes))
        self.whole = self.slot[:0]  # as much of it as the partials of this pass take
        self.values: F32 = np.empty((0, 0), np.float32)  # the same, where fp32 comes as it is
        self.is_in = False
        self.payload: memoryview | None = None  # what of the slot is the partial; None where it is all zero
        self.expected: bytes | None = None  # the head that the link was told of
        self.arrived = bound(arrived, self)


class StarLeaf(StarRank):
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
        self._expected: bytes | None = None  # the head that the link was told of
        self._sent = False  # the partial of this step

    def begin(self, pass_id: int, n_tokens: int) -> None:
        super().begin(pass_id, n_tokens)
        self._expected = None
        self._sent = False

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        self._check_reduce(step, partial)
        result = self._results[step % 2]
        if partial is None:
            self._hub.send_frame(self._zero_partial_head(step), None)
        else:
            self._hub.send_frame(self._partial_head(step), self._payload_of(partial))
        self._sent = True
        target = self._result_bytes[step % 2] if self._fp32_as_it_is else self._slot[: self._payload_bytes]
        self._expected = self._sum_head(step)
        self._hub.expect(ExpectedFrame(self._expected, target, self._arrived))
        if not self._stayed(step):
            await self._wait()
        return result

    def payload_buffer(self, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        if self._is_stale(header):
            return None
        self._check_payload(header, size_bytes)
        self._check_expected(link)
        return self._result_bytes[self._step % 2] if self._fp32_as_it_is else self._slot

    def received(self, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        if self._is_stale(header):
            return
        self._check_header(header)
        self._check_expected(link)
        self._expect_nothing()
        self._take(payload)

    def _arrived(self, head: bytes) -> None:
        if head is not self._expected or self._failure is not None:
            return  # of a pass that has ended while its payload came
        self._expected = None
        self._take(self._slot[: self._payload_bytes])

    def _take(self, payload: memoryview | None) -> None:
        """The sum, None where it is zero. As fp32 it stands where it belongs already."""
        if payload is None:
            self._results[self._step % 2].fill(0)
        elif not self._fp32_as_it_is:
            decode_tensor(payload, self._wire_dtype, self._results[self._step % 2])
        self._sent = False
        self._wake()

    def _payload_of(self, partial: F32) -> memoryview:
        if self._fp32_as_it_is:
            return memoryview(np.ascontiguousarray(partial)).cast("B")
        payload = self._encoded[: self._payload_bytes]
        encode_tensor(partial, self._wire_dtype, payload)
        return payload

    def _receive(self, step: int, deadline_s: float) -> None:
        while self._step == step and self._failure is None:
            if not self._hub.receive(deadline_s) or time.perf_counter() > deadline_s:
                return

    def _expect_nothing(self) -> None:
        self._expected = None
        self._hub.expect(None)

    def _check_expected(self, link: Link) -> None:
        if link is not self._hub:
            raise RemoteProtocolError("A sum came from a device that is not the hub of the plan.")
        if not self._sent:
            raise RemoteProtocolError(f"The sum of step {self._step} came before this rank's partial was sent.")

    def _missing_ranks(self) -> tuple[int, ...]:
        return (0,)

    def _missing(self) -> str:
        return "the sum of the hub"
