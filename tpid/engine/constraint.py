"""What the tokens of an answer must come to, and the daemon's side of holding them to it."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpid.engine.text_messages import mask_bits

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Grammar:
    """Of a whole answer: a JSON schema, or a grammar in Lark's notation as llguidance has it."""

    json_schema: str | None = None
    lark: str | None = None
    field: str = "response_format"  # of the request, which it comes from

    def as_message(self) -> Mapping[str, str]:
        if self.lark is not None:
            return {"lark": self.lark}
        return {"json_schema": self.json_schema or "{}"}


def mask_of(reply: bytes) -> Mask:
    """From the reply of a text process. Raises as `mask_bits`."""
    return np.unpackbits(np.frombuffer(mask_bits(reply), np.uint8), bitorder="little").astype(np.bool_)


class Constraint:
    """One for each answer. While a token is computed, a text process finds out which ones may follow."""

    def __init__(self, first: Mask, follow: Callable[[int], Awaitable[Mask]]) -> None:
        """`follow(id)` gives the mask after one more token."""
        self._mask: Mask | None = first
        self._follow = follow
        self._coming: asyncio.Task[Mask] | None = None

    async def accept(self, id: int) -> None:
        self._mask = None
        self._coming = asyncio.ensure_future(self._follow(id))
        await asyncio.sleep(0)  # it is asked before the next step, which may keep the loop until it is done

    async def allowed(self, vocab_size: int) -> Mask:
        """[vocab]. Raises RequestError, TokenizerError."""
        if self._coming is not None:
            # Not cancelled with its caller: that would cost the process, and it is soon done.
            self._mask = await asyncio.shield(self._coming)
            self._coming = None
        assert self._mask is not None
        fitted = np.zeros(vocab_size, np.bool_)
        n_common = min(vocab_size, len(self._mask))
        fitted[:n_common] = self._mask[:n_common]
        return fitted

    async def close(self) -> None:
        """Waits for what is under way."""
        if self._coming is not None:
            await asyncio.wait({self._coming})
            self._coming.exception()
