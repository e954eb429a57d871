"""How far a request is, from when it comes to its last token."""

import time
from dataclasses import dataclass
from typing import TypeAlias

from tpid.cluster.changed import Changed
from tpid.engine.sequence import TokenSequence


@dataclass(frozen=True, slots=True)
class Queued:
    ahead: int  # requests that come first


@dataclass(frozen=True, slots=True)
class Loading:
    """Of this device's share; 0 of 0 before anything is known."""

    done_bytes: int = 0
    total_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Reading:
    """Of the prompt; after a device was lost, of the answer so far, too."""

    done_tokens: int  # those found in the KV cache included
    total_tokens: int


@dataclass(frozen=True, slots=True)
class Writing:
    tokens: int  # of the answer so far


Stage: TypeAlias = Queued | Loading | Reading | Writing


class Work:
    """One request. `changed` tells of each new stage, but not of each token that is written."""

    def __init__(self, model: str) -> None:
        self.model = model
        self.stage: Stage = Queued(0)
        self.came_s = time.time()
        self.changed = Changed()
        self._earlier_tokens = 0  # of answers before this one, to the same request
        self._sequence: TokenSequence | None = None

    @property
    def n_written(self) -> int:
        """Tokens, of all answers to the request."""
        return self._earlier_tokens + (self._sequence.n_answer if self._sequence is not None else 0)

    async def stage_after(self, told: Stage | None) -> Stage:
        """A stage other than `told` and than writing; waits for it."""
        await self.changed.wait_for(lambda: not isinstance(self.stage, Writing) and self.stage != told)
        return self.stage

    def queued(self, ahead: int) -> None:
        self._enter(Queued(ahead))

    def loading(self, done_bytes: int = 0, total_bytes: int = 0) -> None:
        self._enter(Loading(done_bytes, total_bytes))

    def answers(self, sequence: TokenSequence) -> None:
        """From now on the stage is that of `sequence`."""
        self._earlier_tokens = self.n_written
        self._sequence = sequence
        sequence.on_computed = self._computed

    def _computed(self, sequence: TokenSequence) -> None:
        if sequence.n_computed < len(sequence.ids):
            self._enter(Reading(sequence.n_computed, len(sequence.ids)))
        else:
            self._enter(Writing(sequence.n_answer))

    def _enter(self, stage: Stage) -> None:
        is_next_token = isinstance(stage, Writing) and isinstance(self.stage, Writing)
        self.stage = stage
        if not is_next_token:
            self.changed.notify()
