"""`python -m tpid.engine.text_process`: runs what a model brings for its text, apart from the daemon and with limits.

Reads frames from stdin (`tpid.engine.text_messages`): first the settings, then tokenizer.json, then one prompt after
the other, or a grammar and the tokens of its answer. Writes one frame for each: the token table, then ids, or which
tokens may come next. Ends with its stdin, and with the daemon.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any, BinaryIO

from tpid.engine.prompt import ChatPrompt, Prompt
from tpid.engine.text import TextModel
from tpid.engine.text_messages import LENGTH, MAX_FRAME_BYTES, pack, pack_mask, prompt_of
from tpid.errors import ChatTemplateError, TpidError
from tpid.model.chat_template import ChatTemplate
from tpid.model.tokenizer import Tokenizer
from tpid.size import shown_size

if TYPE_CHECKING:
    from tpid.model.grammar import GrammarMatcher, GrammarTokens

_NICE = 5
_PR_SET_PDEATHSIG = 1
_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000


def main() -> None:
    memory_bytes, render_s, parent = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    _confine(memory_bytes, parent)
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    settings, tokenizer_json = _read_json(requests), _read(requests) or b""
    encoder = _Encoder(render_s)
    _answer(replies, memory_bytes, lambda: encoder.load(settings, tokenizer_json))
    while (request := _read_json(requests)) is not None:
        _answer(replies, memory_bytes, partial(encoder.answer, request))


class _Encoder:
    def __init__(self, render_s: float) -> None:
        self._render_s = render_s

    def load(self, settings: Any, tokenizer_json: bytes) -> bytes:
        tokenizer = Tokenizer.from_json(tokenizer_json)
        source = settings["template"]
        template = None
        if source is not None:
            with _computing_at_most(self._render_s):
                template = ChatTemplate(source, settings["bos"], settings["eos"], other_tokens=settings["other"])
        self._model = TextModel(tokenizer, template, frozenset(settings["eos_ids"]))
        self._grammar_tokens: GrammarTokens | None = None
        self._matcher: GrammarMatcher | None = None
        tokens = [tokenizer.id_to_token(id) for id in range(tokenizer.max_id + 1)]
        special = [token for token in tokens if token is not None and tokenizer.is_special(token)]
        return pack({"tokens": tokens, "special": special, "decoder": tokenizer.decoder_settings()})

    def answer(self, request: Any) -> bytes:
        """A frame."""
        if "grammar" in request:
            return pack_mask(self._begin(request["grammar"]))
        if "accept" in request:
            return pack_mask(self._accept(request["accept"]))
        return pack({"ids": self._encode(prompt_of(request))})

    def _begin(self, grammar: Any) -> bytes:
        """The mask of an answer's first token."""
        from tpid.model.grammar import GrammarMatcher, GrammarTokens  # noqa: PLC0415 (few answers need it)

        if self._grammar_tokens is None:
            self._grammar_tokens = GrammarTokens(self._model.tokenizer, self._model.eos_ids)
        self._matcher = GrammarMatcher(self._grammar_tokens, grammar)
        return self._matcher.mask()

    def _accept(self, id: int) -> bytes:
        """The mask of the token that follows."""
        if self._matcher is None:
            raise RuntimeError("there is no grammar")
        self._matcher.accept(id)
        return self._matcher.mask()

    def _encode(self, prompt: Prompt) -> list[int]:
        if not isinstance(prompt, ChatPrompt):
            return self._model.encode(prompt)
        with _computing_at_most(self._render_s):
            text = self._model.render(prompt)
        return self._model.encode_rendered(text)


@contextmanager
def _computing_at_most(seconds: float) -> Iterator[None]:
    """Ends the process by SIGPROF where the body computes for longer; waiting for a core does not count."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _answer(replies: BinaryIO, memory_bytes: int, work: Callable[[], bytes]) -> None:
    try:
        reply = work()
    except TpidError as error:
        reply = _error(error.code, error.message, error.hint)
    except MemoryError:
        reply = _error(
            ChatTemplateError.code,
            f"The model's template or tokenizer takes more than {shown_size(memory_bytes)} of memory.",
            "Send less text, or take the model from elsewhere.",
        )
    replies.write(reply)
    replies.flush()


def _error(code: str, message: str, hint: str | None) -> bytes:
    return pack({"error": {"code": code, "message": message, "hint": hint}})


def _confine(memory_bytes: int, parent: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the daemon's to handle
    libc = ctypes.CDLL(None)
    # No network from here on, where the system lets a process give it up: as root, or by a user namespace.
    if libc.unshare(_CLONE_NEWNET) != 0:
        libc.unshare(_CLONE_NEWUSER | _CLONE_NEWNET)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a new user namespace takes an earlier one back
    if os.getppid() != parent:  # it has ended before the line above
        sys.exit()
    with suppress(OSError):  # a service may not be allowed to
        os.nice(_NICE)
    for limit, value in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
    ):
        resource.setrlimit(limit, (value, value))


def _read(requests: BinaryIO) -> bytes | None:
    """None at the end of what the daemon sends."""
    head = requests.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (n_bytes,) = LENGTH.unpack(head)
    if n_bytes > MAX_FRAME_BYTES:
        return None
    payload = requests.read(n_bytes)
    return payload if len(payload) == n_bytes else None


def _read_json(requests: BinaryIO) -> Any:
    payload = _read(requests)
    return None if payload is None else json.loads(payload)


if __name__ == "__main__":
    main()
