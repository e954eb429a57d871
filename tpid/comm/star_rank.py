"""What all ranks have in common, those of a star and of the direct exchange: where the pass stands, the results, and
the wait."""

from __future__ import annotations

import asyncio
import sys
import time

import numpy as np

from tpid.comm.heads import Heads
from tpid.comm.messages import Kind
from tpid.comm.patience import MOST_S, Patience
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import F32, WireDtype, wire_bytes
from tpid.errors import DeviceLostError, LocalProtocolError, PassDroppedError, RemoteProtocolError, TpidError

_F32 = np.dtype(np.float32)


class StarRank:
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
        self._shape = 0, hidden_size
        self._payload_bytes = 0  # of a partial or sum that is not zero
        self._results = self._sums[0, :0], self._sums[1, :0]
        self._result_bytes = self._sum_bytes[0][:0], self._sum_bytes[1][:0]  # the same, where fp32 goes as it is
        self._partial_head: Heads  # these four from begin on
        self._sum_head: Heads
        self._zero_partial_head: Heads
        self._zero_sum_head: Heads
        self._step = 0  # the step whose sum is formed next
        self.culprits: tuple[int, ...] = ()
        self._failure: TpidError | None = None
        self._patience = Patience()
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
        self._shape = n_tokens, self._hidden_size
        self._payload_bytes = n_bytes = n_tokens * self._wire_row_bytes
        self._results = self._sums[0, :n_tokens], self._sums[1, :n_tokens]
        if self._fp32_as_it_is:
            self._result_bytes = self._sum_bytes[0][:n_bytes], self._sum_bytes[1][:n_bytes]
        whole = TensorHeader(self._term, pass_id, 0, n_tokens, self._wire_dtype)
        empty = TensorHeader(self._term, pass_id, 0, 0, self._wire_dtype)
        self._partial_head, self._zero_partial_head = Heads(Kind.PARTIAL, whole, n_bytes), Heads(Kind.PARTIAL, empty, 0)
        self._sum_head, self._zero_sum_head = Heads(Kind.SUM, whole, n_bytes), Heads(Kind.SUM, empty, 0)
        self._step = 0
        self.culprits = ()
        self._failure = None

    @property
    def pass_id(self) -> int:
        return self._pass_id

    @property
    def step(self) -> int:
        return self._step

    @property
    def waits_for(self) -> tuple[int, ...]:
        """As `Allreduce.waits_for`."""
        return () if self._waiter is None or self._failure is not None else self._missing_ranks()

    def close(self) -> None:
        """Let go of the links and all memory; no pass runs."""
        self.fail(PassDroppedError("The plan is over."))
        self._sums = np.empty((2, 0, self._hidden_size), np.float32)
        self._sum_bytes.clear()
        self._results = self._sums[0], self._sums[1]
        self._result_bytes = memoryview(b""), memoryview(b"")

    def fail(self, error: TpidError) -> None:
        if self._failure is None:
            self._failure = error
        self._expect_nothing()
        if self._watchdog is not None:
            self._watchdog.cancel()
            self._watchdog = None
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(self._failure.again())

    def _check_reduce(self, step: int, partial: F32 | None) -> None:
        if self._failure is not None:
            raise self._failure.again()
        if self._pass_id < 0 or step != self._step or self._waiter is not None:
            raise LocalProtocolError(f"Step {step} of pass {self._pass_id} is reduced, step {self._step} is next.")
        if partial is not None and (partial.shape != self._shape or partial.dtype != _F32):
            raise LocalProtocolError(
                f"A partial of {partial.dtype} {partial.shape} was given instead of float32 {self._shape}."
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

    def _stayed(self, step: int) -> bool:
        """Wait at the socket, if the sum is likely to come soon; whether it came. Raises what `fail` was given."""
        patience = self._patience
        self._waits_since_s = begin_s = time.perf_counter()
        if patience.stays:
            self._receive(step, begin_s + MOST_S)
        if self._failure is not None:
            raise self._failure.again()
        if self._step == step:
            return False
        patience.waited(time.perf_counter() - begin_s)
        return True

    async def _wait(self) -> None:
        """Go on waiting in the loop. Raises what `fail` was given."""
        loop = asyncio.get_running_loop()
        waiter = self._waiter = loop.create_future()
        if self._watchdog is None:
            self._watchdog = loop.call_later(self._step_timeout_s, self._look)
        try:
            await waiter
            self._patience.waited(time.perf_counter() - self._waits_since_s)
        except asyncio.CancelledError:
            if self._waiter is waiter and self._failure is None:
                self._failure = LocalProtocolError(f"Pass {self._pass_id} was cancelled in step {self._step}.")
                self._expect_nothing()
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
        left_s = self._waits_since_s + self._step_timeout_s - time.perf_counter()
        if left_s > 0:
            self._watchdog = loop.call_later(left_s, self._look)
        else:
            self.fail(
                DeviceLostError(
                    f"Step {self._step} of pass {self._pass_id} has waited {self._step_timeout_s:g} s "
                    f"for {self._missing()}."
                )
            )

    def _receive(self, step: int, deadline_s: float) -> None:
        """At the socket, until the sum of `step` is there, the pass has failed, or it is `deadline_s`."""
        raise NotImplementedError

    def _expect_nothing(self) -> None:
        raise NotImplementedError

    def _missing_ranks(self) -> tuple[int, ...]:
        raise NotImplementedError

    def _missing(self) -> str:
        raise NotImplementedError
