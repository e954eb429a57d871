"""One plan made real, seen from the coordinator: tokens in, logits out, whoever computes them."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np

from tpid.comm.allreduce import is_finite
from tpid.comm.connection import Connection
from tpid.comm.exchange import make_exchange
from tpid.comm.messages import Abort, DiskUse, Kind, Message, Progress
from tpid.comm.tensors import StartHeader
from tpid.comm.wire_dtype import WireDtype, decode_tensor, encode_tensor, wire_bytes
from tpid.device import DeviceId
from tpid.engine.authority import Phase
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.loaded import LoadedShare
from tpid.engine.rank_watch import LOOK_S, RankWatch
from tpid.engine.sequence import TokenSequence
from tpid.engine.weight_use import WeightUse
from tpid.errors import ClusterError, DeviceLostError, NumericError, RankFailedError, TpidError
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.reader import Pack
from tpid.plan.plan import Plan

log = logging.getLogger(__name__)

Blame = Callable[[DeviceId, str], None]  # the device did not do its part, and why: it sits out for a while


class Executor:
    """Owns the coordinator's share and the allreduce; `close` lets both go, and nobody else does.

    One sequence at a time; its KV cache is kept from one to the next.
    """

    def __init__(
        self,
        pack: Pack,
        plan: Plan,
        share: LoadedShare,
        *,
        workers: Mapping[int, Connection],
        elsewhere: Mapping[DeviceId, WeightUse],
        speeds: Mapping[DeviceId, float],
        calls: ComputeCalls,
        check: Callable[[Plan], None],
        blame: Blame,
    ) -> None:
        """`elsewhere`: what the workers hold, as they told it when they had loaded. `speeds`: bytes a second, of all
        devices that the plan was made for. `check` raises DeviceLostError
        where a rank of the plan is not this coordinator's any more; it is asked before each pass."""
        self.pack = pack
        self.plan = plan
        self.speeds = speeds
        self.failure: TpidError | None = None
        self._cached_ids: list[int] = []  # tokens whose K and V are in every rank's cache, position by position
        self._share = share
        self._workers = dict(workers)
        self._elsewhere = dict(elsewhere)
        self._calls = calls
        self._check = check
        self._blame = blame
        self._embedding = EmbeddingRows(pack)
        self._wire_dtype = WireDtype(plan.wire_dtype)
        self._pass_id = 0
        self._in_pass = False
        self._watch = RankWatch(0.0)
        self._look_timer: asyncio.TimerHandle | None = None
        self.exchange = make_exchange(
            plan.term,
            0,
            workers,
            hidden_size=pack.spec.hidden_size,
            max_tokens=plan.max_pass_tokens,
            wire_dtype=self._wire_dtype,
            direct_tokens=plan.direct_tokens,
        )

    @property
    def phase(self) -> Phase:
        return Phase.PASS if self._in_pass else Phase.READY

    @property
    def weight_use(self) -> dict[DeviceId, WeightUse]:
        """Of each rank; of this device as it is now, of others as they told it last."""
        return {self.plan.ranks[0].device: self._share.weight_use, **self._elsewhere}

    def attach(self, sequence: TokenSequence) -> None:
        """Begin with what the KV caches have of it; the last token is computed anew, for its logits."""
        common = 0
        for ours, theirs in zip(self._cached_ids, sequence.ids[:-1], strict=False):
            if ours != theirs:
                break
            common += 1
        sequence.computed(common)

    async def advance(self, sequence: TokenSequence) -> F32:
        """Compute what is not computed; logits [vocab] fp32 after the last token.

        Raises DeviceLostError or RankFailedError where another device is to blame, else what went wrong on this one.
        After an error or a cancellation the passes that did end count.
        """
        hidden = np.empty((0, self.pack.spec.hidden_size), np.float32)
        while chunk := sequence.next_chunk(self.plan.max_pass_tokens):
            del self._cached_ids[sequence.n_computed :]  # overwritten by what comes now
            hidden = await self._pass(chunk)
            self._cached_ids += chunk
            sequence.computed(sequence.n_computed + len(chunk))
        logits = await self._share.logits(hidden[-1:], self._calls)
        if not is_finite(logits):
            self._cached_ids.clear()
            raise _not_finite(self.plan.ranks[0].name, self.plan.model)
        row: F32 = logits[0]
        return row

    def told(self, device: DeviceId, message: DiskUse | Progress) -> None:
        if isinstance(message, Progress):
            if message.pass_id == self._pass_id:
                self._watch.heard(device, message.done, asyncio.get_running_loop().time())
        elif device in self._elsewhere:
            use = self._elsewhere[device]
            self._elsewhere[device] = replace(use, disk_bytes_s=message.disk_bytes_s, stall_s=message.stall_s)

    def fail(self, error: TpidError) -> None:
        """The plan cannot go on: a rank is lost or has failed. Ends the pass under way."""
        if self.failure is None:
            self.failure = error
            self.exchange.fail(error)

    def tell_workers(self, message: Message) -> None:
        """Sends to each worker that is still there."""
        for connection in self._workers.values():
            try:
                connection.send(message)
            except DeviceLostError as error:
                log.info("tell_failed peer=%s reason=%r", connection.peer.name, error.message)

    def close(self) -> None:
        if self._look_timer is not None:
            self._look_timer.cancel()
        self.exchange.close()
        self._share.close()
        self._embedding.close()
        self._workers.clear()

    async def _pass(self, ids: list[int]) -> F32:
        if self.failure is not None:
            raise self.failure.again()
        self._check(self.plan)
        segments = (Segment(0, len(self._cached_ids), len(ids)),)
        hidden = self._embedding.gather(ids)
        self._pass_id += 1
        header = StartHeader(self.plan.term, self._pass_id, segments, self._wire_dtype)
        self._in_pass = True
        try:
            self.exchange.begin(self._pass_id, len(ids))
            if self._workers:
                self._keep_watch()
                payload = self._encode(hidden)
                for connection in self._workers.values():
                    connection.send_tensor(Kind.START, header, payload)
            return await self._share.run(hidden, segments, self.exchange, self._calls)
        except BaseException as error:  # whatever it is, no worker may stay inside the pass
            self.tell_workers(Abort(term=self.plan.term, pass_id=self._pass_id))
            if isinstance(error, NumericError):
                raise self._numeric_failure() from error
            if isinstance(error, RuntimeError | MemoryError | OSError):
                raise ClusterError(
                    f"The pass failed on this device: {error}.", hint="Try again; the log of tpid may say more."
                ) from error
            raise
        finally:
            self._in_pass = False

    def _numeric_failure(self) -> TpidError:
        """The plan ends where another rank is to blame."""
        error: TpidError = _not_finite(self.plan.ranks[0].name, self.plan.model)
        for rank in self.exchange.culprits:
            if rank:
                part = self.plan.ranks[rank]
                error = RankFailedError(
                    f"{part.name} computed values that are not finite numbers.",
                    hint=f"Run `tpictl verify --pack {self.plan.model}` on {part.name}.",
                )
                self._blame(part.device, error.message)
                self.failure = error
        return error.again()

    # --- the watch over the ranks

    def _keep_watch(self) -> None:
        """One timer for many passes: it stops by itself when none runs."""
        if self._look_timer is None:
            loop = asyncio.get_running_loop()
            self._watch = RankWatch(loop.time())
            self._look_timer = loop.call_later(LOOK_S, self._look)

    def _look(self) -> None:
        loop = asyncio.get_running_loop()
        self._look_timer = None
        if not self._in_pass:
            return
        now = loop.time()
        missing = {self.plan.ranks[rank].device for rank in self.exchange.waits_for}
        self._watch.waits_for(missing, (self._pass_id, self.exchange.step), now)
        overdue = self._watch.look(now)
        if overdue is None:
            self._look_timer = loop.call_later(LOOK_S, self._look)
            return
        rank = self.plan.rank_of(overdue.device)
        name = self.plan.ranks[rank].name if rank is not None else overdue.device
        self._blame(overdue.device, overdue.reason)
        self.fail(RankFailedError(f"{name} {overdue.reason}.", hint=f"Look into the log of tpid on {name}."))

    def _encode(self, hidden: F32) -> memoryview:
        """The rows for the wire; `hidden` becomes what the workers will see. A copy: the pass changes `hidden`."""
        payload = memoryview(bytearray(wire_bytes(self._wire_dtype, *hidden.shape)))
        encode_tensor(hidden, self._wire_dtype, payload)
        decode_tensor(payload, self._wire_dtype, hidden)
        return payload


def _not_finite(device: str, model: str) -> NumericError:
    return NumericError(
        f"{device} computed values that are not finite numbers with {model}.",
        hint=f"Run `tpictl verify --pack {model}` on {device}; if it is whole, the file that it came from is broken.",
    )
