"""A request's way to logits: through the plan at hand, and through the next one where a device fails.

The tokens are here, so nothing is lost with a device: the plan is made anew over those that are left, they compute the
tokens once more, and the answer goes on where it was.
"""

import logging
from typing import Final

from tpid.engine.coordinator import Coordinator
from tpid.engine.executor import Executor
from tpid.engine.journal import Journal
from tpid.engine.sequence import TokenSequence
from tpid.errors import DeviceLostError, MemoryPlanError, RankFailedError, TpidError
from tpid.memory.weights import LoadProgress
from tpid.model.weights import F32
from tpid.pack.reader import Pack

log = logging.getLogger(__name__)

MAX_FAILURES: Final = 5  # one after the other without a token between them: then it is not the devices


class Runner:
    """For one request; the lease stays here meanwhile."""

    def __init__(self, coordinator: Coordinator, pack: Pack, progress: LoadProgress, journal: Journal) -> None:
        self.pack = pack
        self._journal = journal
        self._coordinator = coordinator
        self._progress = progress
        self._executor: Executor | None = None  # of the plan at hand
        self._attached: Executor | None = None  # whose KV caches the sequence's count is about
        self._failures = 0  # one after the other
        self._failure: TpidError | None = None  # the last of them

    async def executor(self) -> Executor:
        """That of a plan which holds now; made anew where a device fails meanwhile.

        Raises what `Coordinator.executor_for` raises; a device's failure only where it goes on failing.
        """
        while self._executor is None or self._executor.failure is not None:
            self._executor = self._attached = None  # what is kept stays in memory
            try:
                alone = self._failures == MAX_FAILURES - 1  # the last try is without those that went on failing
                self._executor = await self._coordinator.executor_for(self.pack, self._progress, alone=alone)
            except (DeviceLostError, RankFailedError) as error:
                self._count(error)
            except MemoryPlanError:
                if alone and self._failure is not None:
                    raise self._failure from None  # which is why no more devices were tried
                raise
        return self._executor

    async def attach(self, sequence: TokenSequence) -> None:
        """Begin with what the KV caches have of the sequence."""
        self._attached = await self.executor()
        self._attached.attach(sequence)

    async def advance(self, sequence: TokenSequence) -> F32:
        """Logits [vocab] fp32 after the last token of an attached sequence, whatever becomes of other devices.

        Raises what went wrong on this one; MemoryPlanError where those that are left cannot hold the model.
        """
        while True:
            executor = await self.executor()
            if executor is not self._attached:  # its plan broke
                await self.attach(sequence)
                log.info("recovered model=%s tokens=%d", self.pack.name, len(sequence.ids))
                self._journal.recovered([rank.name for rank in (await self.executor()).plan.ranks])
            try:
                logits = await executor.advance(sequence)
            except (DeviceLostError, RankFailedError) as error:
                self._count(error)
                executor.fail(error)
            else:
                self._failures = 0
                return logits

    def _count(self, error: DeviceLostError | RankFailedError) -> None:
        """Raises the error where it is one too many."""
        self._failures += 1
        self._failure = error.again()
        log.warning("rank_failed model=%s failures=%d reason=%r", self.pack.name, self._failures, error.message)
        if isinstance(error, RankFailedError):  # one that is gone is in the journal already
            self._journal.failed(error.message)
        if self._failures >= MAX_FAILURES:
            raise error
