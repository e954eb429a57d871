"""`python -m tpid.engine.text_process`: runs what a model brings for its text, apart from the daemon and with limits.

Reads frames from stdin (`tpid.engine.text_messages`): first the settings, then tokenizer.json, then one chat after the
other. Writes one frame for each: the token table, then ids. Ends with its stdin, and with the daemon.
"""

import ctypes
import json
import os
import resource
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

from tpid.engine.text import TextModel
from tpid.engine.text_messages import LENGTH, MAX_FRAME_BYTES, pack
from tpid.errors import ChatTemplateError, TpidError
from tpid.model.chat_template import ChatTemplate
from tpid.model.tokenizer import Tokenizer
from tpid.size import shown_size

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
    while (messages := _read_json(requests)) is not None:
        _answer(replies, memory_bytes, lambda messages=messages: encoder.encode_chat(messages))


class _Encoder:
    def __init__(self, render_s: float) -> None:
        self._render_s = render_s

    def load(self, settings: Any, tokenizer_json: bytes) -> dict[str, object]:
        tokenizer = Tokenizer.from_json(tokenizer_json)
        source = settings["template"]
        template = None
        if source is not None:
            with _computing_at_most(self._render_s):
                template = ChatTemplate(source, settings["bos"], settings["eos"], other_tokens=settings["other"])
        self._model = TextModel(tokenizer, template, frozenset())
        tokens = [tokenizer.id_to_token(id) for id in range(tokenizer.max_id + 1)]
        special = [token for token in tokens if token is not None and tokenizer.is_special(token)]
        return {"tokens": tokens, "special": special, "decoder": tokenizer.decoder_settings()}

    def encode_chat(self, messages: Any) -> dict[str, object]:
        with _computing_at_most(self._render_s):
            prompt = self._model.render(messages)
        return {"ids": self._model.encode(prompt)}


@contextmanager
def _computing_at_most(seconds: float) -> Iterator[None]:
    """Ends the process by SIGPROF where the body computes for longer; waiting for a core does not count."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)


def _answer(replies: BinaryIO, memory_bytes: int, work: Any) -> None:
    try:
        reply = pack(work())
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
