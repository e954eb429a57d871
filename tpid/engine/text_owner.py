"""The daemon's side of a text process: starts it, ends it when a request goes wrong, and starts it again."""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Mapping
from dataclasses import dataclass, field

from tpid.engine.constraint import Constraint, Grammar, Mask, mask_of
from tpid.engine.prompt import Prompt
from tpid.engine.text_messages import (
    LENGTH,
    MAX_REPLY_BYTES,
    TokenTable,
    decode_ids,
    decode_table,
    frame,
    pack,
    pack_prompt,
)
from tpid.errors import ChatTemplateError, RequestError, TokenizerError, TpidError
from tpid.model.tool_format import tool_format_of
from tpid.pack.reader import Pack
from tpid.size import shown_size

_KEPT_ENVIRONMENT = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "PYTHONPATH", "LD_LIBRARY_PATH")
_END_S = 1.0
_HINT = "Send less text, or take the model from elsewhere."


@dataclass(frozen=True, slots=True)
class TextLimits:
    load_s: float = 60.0  # 262,000 tokens and twice as many merges take 2 s of a fast core, and a small board is busy
    request_s: float = 10.0
    render_s: float = 2.0  # of computing, to compile or to render a template; honest ones need milliseconds
    memory_bytes: int = 1 << 30  # address space


@dataclass(frozen=True, slots=True)
class TextSource:
    """What a model brings for its text."""

    tokenizer_json: bytes
    template: str | None
    bos_token: str | None
    eos_token: str | None
    eos_ids: frozenset[int]
    other_tokens: Mapping[str, str] = field(default_factory=dict)  # by the names that the template knows


def text_source(pack: Pack) -> TextSource:
    """Raises PackError."""
    tokens = pack.manifest.tokens
    return TextSource(
        pack.tokenizer_json(),
        pack.chat_template(),
        tokens.bos_token,
        tokens.eos_token,
        frozenset(tokens.eos_ids),
        tokens.other_tokens,
    )


class ModelText:
    """One model's text; requests go one after the other. After a failure the next request has a fresh process."""

    def __init__(self, source: TextSource, limits: TextLimits) -> None:
        self._source = source
        self._limits = limits
        self._process: Process | None = None
        self._killed: list[Process] = []  # not yet waited for
        self._turn = asyncio.Lock()
        self.eos_ids = source.eos_ids
        self.tool_format = tool_format_of(source.template)
        self.tokenizer = TokenTable((), frozenset(), None)

    @classmethod
    async def open(cls, source: TextSource, limits: TextLimits | None = None) -> "ModelText":
        """Raises TokenizerError or ChatTemplateError."""
        text = cls(source, limits or TextLimits())
        try:
            async with text._turn:
                await text._started()
        except BaseException:
            await text.close()
            raise
        return text

    async def encode(self, prompt: Prompt) -> list[int]:
        """The ids of `prompt`, as `TextModel.encode` gives them. Cancelling it ends the work at once.

        Raises ChatTemplateError, TokenizerError or RequestError.
        """
        request = pack_prompt(prompt)
        async with self._turn:
            process = await self._started()
            return decode_ids(await self._exchange(process, request, self._limits.request_s))

    async def constrain(self, grammar: Grammar) -> Constraint:
        """Of one answer. Raises RequestError where the grammar is not sound, TokenizerError or ChatTemplateError."""
        async with self._turn:
            process = await self._started()
            request = pack({"grammar": dict(grammar.as_message())})
            try:
                first = mask_of(await self._exchange(process, request, self._limits.request_s))
            except RequestError as error:
                error.field = grammar.field
                raise

        async def follow(id: int) -> Mask:
            async with self._turn:
                if self._process is not process:
                    raise TokenizerError("The text process of this answer has ended.", hint="Try again.")
                return mask_of(await self._exchange(process, pack({"accept": id}), self._limits.request_s))

        return Constraint(first, follow)

    async def close(self) -> None:
        """Ends the process at once."""
        self._kill()
        while self._killed:
            await self._killed.pop().wait()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.returncode is None:
            process.kill()
        if process.stdin is not None:
            process.stdin.close()
        self._killed = [killed for killed in self._killed if killed.returncode is None] + [process]

    async def _started(self) -> Process:
        if self._process is not None and self._process.returncode is None:
            return self._process
        self._process = process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "tpid.engine.text_process"),
            *(str(self._limits.memory_bytes), str(self._limits.render_s), str(os.getpid())),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            env={name: os.environ[name] for name in _KEPT_ENVIRONMENT if name in os.environ}
            | {"TOKENIZERS_PARALLELISM": "false"},
        )
        source = self._source
        settings = {
            "template": source.template,
            "bos": source.bos_token,
            "eos": source.eos_token,
            "other": dict(source.other_tokens),
            "eos_ids": sorted(source.eos_ids),
        }
        try:
            request = pack(settings) + frame(source.tokenizer_json)
            reply = await self._exchange(process, request, self._limits.load_s)
            self.tokenizer = await asyncio.to_thread(decode_table, reply)
        except BaseException:
            self._kill()
            raise
        return process

    async def _exchange(self, process: Process, request: bytes, limit_s: float) -> bytes:
        """The reply to `request`; whatever goes wrong, a cancelled caller included, ends the process."""
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(limit_s):
                process.stdin.write(request)
                await process.stdin.drain()
                (n_bytes,) = LENGTH.unpack(await process.stdout.readexactly(LENGTH.size))
                if n_bytes > MAX_REPLY_BYTES:
                    raise TokenizerError(
                        f"The model's text takes {n_bytes} bytes, more than {MAX_REPLY_BYTES}.", hint=_HINT
                    )
                return await process.stdout.readexactly(n_bytes)
        except TimeoutError as error:
            self._kill()
            raise ChatTemplateError(
                f"The model's template or tokenizer takes longer than {limit_s:g} s.", hint=_HINT
            ) from error
        except (asyncio.IncompleteReadError, OSError) as error:
            raise _ending(await self._status(process), self._limits) from error
        except BaseException:
            self._kill()
            raise

    async def _status(self, process: Process) -> int:
        """Of a process whose output has ended; it is given a moment, because `kill` may take the status for itself."""
        try:
            async with asyncio.timeout(_END_S):
                return await process.wait()
        except TimeoutError:
            pass
        finally:
            self._kill()
        return await process.wait()


def _ending(status: int, limits: TextLimits) -> TpidError:
    if status == -signal.SIGPROF:
        return ChatTemplateError(f"The model's template computes for longer than {limits.render_s:g} s.", hint=_HINT)
    how = signal.Signals(-status).name if -status in set(signal.Signals) else f"status {status}"
    return TokenizerError(
        f"The model's template or tokenizer crashed ({how}); it may use {shown_size(limits.memory_bytes)} of memory.",
        hint=_HINT,
    )
