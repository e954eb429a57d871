"""A loaded plan, seen from the coordinator: tokens in, logits out, whoever computes them."""

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from tpid.comm.allreduce import Allreduce, Alone
from tpid.comm.connection import Connection
from tpid.comm.messages import Abort, DiskUse, Kind, Message
from tpid.comm.star import StarHub
from tpid.comm.tensors import StartHeader
from tpid.comm.wire_dtype import WireDtype, decode_tensor, encode_tensor, wire_bytes
from tpid.device import DeviceId
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.loaded import LoadedShare
from tpid.engine.weight_use import WeightUse
from tpid.errors import ClusterError, DeviceLostError, TpidError
from tpid.model.batch import Segment
from tpid.model.weights import F32
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.reader import Pack
from tpid.plan.plan import Plan

log = logging.getLogger(__name__)


class Session:
    """One sequence at a time; its KV cache is kept from one request to the next."""

    def __init__(
        self,
        pack: Pack,
        plan: Plan,
        share: LoadedShare,
        *,
        workers: Mapping[int, Connection],
        elsewhere: Mapping[DeviceId, WeightUse],
        calls: ComputeCalls,
    ) -> None:
        """`elsewhere`: what the workers hold, as they told it when they had loaded."""
        self.pack = pack
        self.plan = plan
        self.failure: TpidError | None = None
        self.cached_ids: list[int] = []  # tokens whose K and V are in every rank's cache, position by position
        self._share = share
        self._workers = workers
        self._elsewhere = dict(elsewhere)
        self._calls = calls
        self._embedding = EmbeddingRows(pack)
        self._wire_dtype = WireDtype(plan.wire_dtype)
        self._pass_id = 0
        self.star: Allreduce = (
            StarHub(
                plan.term,
                workers,
                hidden_size=pack.spec.hidden_size,
                max_tokens=plan.max_pass_tokens,
                wire_dtype=self._wire_dtype,
            )
            if workers
            else Alone(pack.spec.hidden_size)
        )

    @property
    def weight_use(self) -> dict[DeviceId, WeightUse]:
        """Of each rank; of this device as it is now, of others as they told it last."""
        return {self.plan.ranks[0].device: self._share.weight_use, **self._elsewhere}

    async def extend(self, ids: Sequence[int]) -> F32:
        """Append `ids` to the cached sequence; logits [vocab] fp32 after the last of them.

        Raises DeviceLostError or ClusterError where a rank failed. After an error or a cancellation the
        cached sequence is what it was before the pass that did not end.
        """
        hidden = np.empty((0, self.pack.spec.hidden_size), np.float32)
        for start in range(0, len(ids), self.plan.max_pass_tokens):
            chunk = list(ids[start : start + self.plan.max_pass_tokens])
            hidden = await self._pass(chunk)
            self.cached_ids += chunk
        logits = await self._share.logits(hidden[-1:], self._calls)
        row: F32 = logits[0]
        return row

    def told_disk_use(self, device: DeviceId, message: DiskUse) -> None:
        if device in self._elsewhere:
            use = self._elsewhere[device]
            self._elsewhere[device] = replace(use, disk_bytes_s=message.disk_bytes_s, stall_s=message.stall_s)

    def rewind(self, n_tokens: int) -> None:
        """Keep the first `n_tokens` of the cached sequence: later ones are overwritten by what comes next."""
        del self.cached_ids[n_tokens:]

    def fail(self, error: TpidError) -> None:
        """The plan cannot go on: a rank is lost or has failed. Ends the pass under way."""
        if self.failure is None:
            self.failure = error
            self.star.fail(error)

    def tell_workers(self, message: Message) -> None:
        """Sends to each worker that is still there."""
        for connection in self._workers.values():
            try:
                connection.send(message)
            except DeviceLostError as error:
                log.info("tell_failed peer=%s reason=%r", connection.peer.name, error.message)

    def close(self) -> None:
        self._share.close()
        self._embedding.close()

    async def _pass(self, ids: list[int]) -> F32:
        if self.failure is not None:
            raise self.failure
        segments = (Segment(0, len(self.cached_ids), len(ids)),)
        hidden = self._embedding.gather(ids)
        self._pass_id += 1
        header = StartHeader(self.plan.term, self._pass_id, segments, self._wire_dtype)
        try:
            self.star.begin(self._pass_id, len(ids))
            if self._workers:
                payload = self._encode(hidden)
                for connection in self._workers.values():
                    connection.send_tensor(Kind.START, header, payload)
            return await self._share.run(hidden, segments, self.star, self._calls)
        except (TpidError, asyncio.CancelledError):
            self.tell_workers(Abort(term=self.plan.term, pass_id=self._pass_id))
            raise
        except (RuntimeError, MemoryError) as error:
            self.tell_workers(Abort(term=self.plan.term, pass_id=self._pass_id))
            raise ClusterError(f"The pass failed on this device: {error}.") from error

    def _encode(self, hidden: F32) -> memoryview:
        """The rows for the wire; `hidden` becomes what the workers will see. A copy: the pass changes `hidden`."""
        payload = memoryview(bytearray(wire_bytes(self._wire_dtype, *hidden.shape)))
        encode_tensor(hidden, self._wire_dtype, payload)
        decode_tensor(payload, self._wire_dtype, hidden)
        return payload
