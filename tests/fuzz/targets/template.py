"""Any chat template, in a text process: it ends in time and memory, by ids or by a declared error."""

import asyncio
import contextlib

from tokenizers import Tokenizer, models

from tpid.engine.prompt import ChatPrompt
from tpid.engine.text_owner import ModelText, TextLimits, TextSource
from tpid.errors import TpidError

LIMITS = TextLimits(load_s=0.7, request_s=0.2, memory_bytes=256 << 20)
TOKENIZER = Tokenizer(models.BPE(vocab={"a": 0}, merges=[])).to_str().encode()


def fuzz(data: bytes) -> None:
    asyncio.run(_render(data.decode("utf-8", "replace")))


async def _render(template: str) -> None:
    with contextlib.suppress(TpidError):
        text = await ModelText.open(TextSource(TOKENIZER, template, "<s>", "</s>", frozenset({0})), LIMITS)
        try:
            await text.encode(ChatPrompt([{"role": "user", "content": "a"}]))
        finally:
            await text.close()
