"""An allreduce: each rank gives a partial, all get the sum. The ways it is done are `tpid.comm.star` and
`tpid.comm.direct`; `tpid.comm.exchange` makes that of a plan."""

from __future__ import annotations

from typing import Final, Protocol

import numpy as np

from tpid.comm.frames import ExpectedFrame
from tpid.comm.tensors import TensorHeader
from tpid.comm.wire_dtype import F32
from tpid.errors import NumericError, RemoteProtocolError, TpidError

STEP_TIMEOUT_S: Final = 120.0  # a peer that is alive and does not compute; far above a prefill block from a slow disk


class Link(Protocol):
    """What an allreduce needs of a `tpid.comm.connection.Connection`."""

    def send_frame(self, head: bytes, payload: memoryview | None, /) -> None: ...

    def expect(self, frame: ExpectedFrame | None, /) -> None: ...

    def receive(self, deadline_s: float, /) -> bool: ...

    def flush(self, most_s: float, /) -> None: ...


class Reducer(Protocol):
    """What a pass sees of `Allreduce`."""

    async def reduce(self, step: int, partial: F32 | None) -> F32: ...


class Allreduce(Protocol):
    """What the engine sees. A view that `reduce` returns may be read, not written, until the reduce after the next."""

    def begin(self, pass_id: int, n_tokens: int) -> None:
        """A pass of `n_tokens` rows; passes are numbered upwards. Call it before the peers can know of the pass."""
        ...

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        """The sum over all ranks of fp32 [n_tokens, hidden]; None where this rank has nothing to add.

        Steps count from 0 in each pass. `partial` must not change until this returns. Raises what `fail` was given,
        and DeviceLostError after `step_timeout_s`. Where it raises or is cancelled the pass is lost: the next is
        begun with `begin`. Where the ranks wait for each other for short times only, the loop gets no turn.
        """
        ...

    @property
    def pass_id(self) -> int:
        """The pass that has begun last; -1 before the first."""
        ...

    @property
    def step(self) -> int:
        """The step of the pass whose sum is formed next."""
        ...

    @property
    def waits_for(self) -> tuple[int, ...]:
        """The ranks whose part of `step` is missing while this rank waits for nothing else."""
        ...

    @property
    def culprits(self) -> tuple[int, ...]:
        """The ranks that are to blame for the end of the pass, as far as the allreduce itself has found out."""
        ...

    def fail(self, error: TpidError) -> None:
        """End the pass: a waiting reduce raises `error`, and so does a later one before the next `begin`."""
        ...

    def close(self) -> None:
        """Let go of the links and all memory; no pass runs."""
        ...

    def payload_buffer(self, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        """For a `Receiver`: where the payload goes; None to skip it. Raises RemoteProtocolError."""
        ...

    def received(self, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        """For a `Receiver`: a PARTIAL, a SUM or a PEER_PARTIAL is complete. Raises RemoteProtocolError."""
        ...


def is_finite(values: F32) -> bool:
    """Whether no value is NaN, infinite, or so large that its square is: the next norm squares them."""
    flat = values.reshape(-1)
    return bool(np.isfinite(np.dot(flat, flat)))


class Alone:
    """A plan of one rank: the partial is the sum."""

    def __init__(self, hidden_size: int) -> None:
        self.pass_id = -1
        self.step = 0
        self.waits_for: tuple[int, ...] = ()
        self.culprits: tuple[int, ...] = ()
        self._hidden_size = hidden_size
        self._n_tokens = 0
        self._failure: TpidError | None = None

    def begin(self, pass_id: int, n_tokens: int) -> None:
        self.pass_id = pass_id
        self._n_tokens = n_tokens
        self.step = 0
        self.culprits = ()
        self._failure = None

    async def reduce(self, step: int, partial: F32 | None) -> F32:
        if self._failure is not None:
            raise self._failure.again()
        if partial is None:
            partial = np.zeros((self._n_tokens, self._hidden_size), np.float32)
        if not is_finite(partial):
            self.culprits = (0,)
            raise NumericError(f"The partial of step {step} has values that are not finite numbers.")
        self.step = step + 1
        return partial

    def fail(self, error: TpidError) -> None:
        self._failure = error

    def close(self) -> None:
        return None

    def payload_buffer(self, link: Link, header: TensorHeader, size_bytes: int) -> memoryview | None:
        raise RemoteProtocolError("A tensor came from a device, but the plan has no other device.")

    def received(self, link: Link, header: TensorHeader, payload: memoryview | None) -> None:
        raise RemoteProtocolError("A tensor came from a device, but the plan has no other device.")
