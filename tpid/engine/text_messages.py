"""What goes between the daemon and a text process: frames of JSON, each with its length before it.

JSON because chats come as JSON: whatever a request may hold (large integers, lone surrogates) passes unchanged.
A text process runs a stranger's code, so the daemon trusts nothing in a reply: decoding is total.
"""

import json
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from tpid.engine.prompt import ChatPrompt, IdsPrompt, Prompt, TextPrompt
from tpid.errors import ChatTemplateError, RequestError, TokenizerError, TpidError

LENGTH = struct.Struct("<I")
MAX_FRAME_BYTES = 1 << 27  # published tokenizer.json files stay below 40 MB
MAX_REPLY_BYTES = 1 << 25

_MASK = b"\0"  # before a mask: no JSON begins so
_MAX_ID = (1 << 31) - 1
_ERRORS: Mapping[str, type[TpidError]] = {
    error.code: error for error in (ChatTemplateError, RequestError, TokenizerError)
}


@dataclass(frozen=True, slots=True)
class TokenTable:
    """What streaming an answer needs of a tokenizer: texts of single tokens, with none of the model's code."""

    tokens: Sequence[str | None]  # by id
    special_tokens: frozenset[str]
    decoder: Mapping[str, object] | None

    def id_to_token(self, id: int) -> str | None:
        return self.tokens[id] if 0 <= id < len(self.tokens) else None

    def id_of(self, token: str) -> int | None:
        return self.tokens.index(token) if token in self.tokens else None

    def is_special(self, token: str) -> bool:
        """Whether decoding leaves `token` out."""
        return token in self.special_tokens

    def decoder_settings(self) -> Mapping[str, object] | None:
        """The `decoder` of tokenizer.json; None where tokens are joined by spaces."""
        return self.decoder


def frame(payload: bytes) -> bytes:
    """Raises RequestError where `payload` is too large to be sent."""
    if len(payload) > MAX_FRAME_BYTES:
        raise RequestError(f"The text has {len(payload)} bytes, more than {MAX_FRAME_BYTES}.", hint="Send less text.")
    return LENGTH.pack(len(payload)) + payload


def pack(message: object) -> bytes:
    """A frame of `message`, which is made of JSON's types. Raises RequestError."""
    try:
        return frame(json.dumps(message).encode("ascii"))
    except (TypeError, ValueError, RecursionError) as error:
        raise RequestError(f"The messages cannot be handed on: {error}.", hint="Send plain JSON values.") from error


def pack_prompt(prompt: Prompt) -> bytes:
    """A frame of `prompt`, for `prompt_of`. Raises RequestError."""
    if isinstance(prompt, IdsPrompt):
        return pack({"ids": list(prompt.ids)})
    if isinstance(prompt, TextPrompt):
        return pack({"text": prompt.text})
    tools = None if prompt.tools is None else list(prompt.tools)
    return pack({"messages": list(prompt.messages), "tools": tools, "variables": dict(prompt.variables)})


def prompt_of(message: Any) -> Prompt:
    """What the daemon has packed: it is trusted."""
    if "ids" in message:
        return IdsPrompt(message["ids"])
    if "text" in message:
        return TextPrompt(message["text"])
    return ChatPrompt(message["messages"], message["tools"], message["variables"])


def pack_mask(bits: bytes) -> bytes:
    """A frame of which tokens may come, a bit for each."""
    return frame(_MASK + bits)


def mask_bits(reply: bytes) -> bytes:
    """What `pack_mask` packed. Raises the error that the reply tells of, TokenizerError where it is no sound one."""
    if not reply.startswith(_MASK):
        _body(reply)
        _unsound()
    return reply[len(_MASK) :]


def decode_ids(reply: bytes) -> list[int]:
    """Raises the error that the reply tells of, and TokenizerError where it is no sound reply."""
    ids = _body(reply).get("ids")
    if not isinstance(ids, list) or not all(type(id) is int and 0 <= id <= _MAX_ID for id in ids):
        _unsound()
    return ids


def decode_table(reply: bytes) -> TokenTable:
    """Raises the error that the reply tells of, and TokenizerError where it is no sound reply."""
    body = _body(reply)
    tokens, special, decoder = body.get("tokens"), body.get("special"), body.get("decoder")
    if not isinstance(tokens, list) or not all(token is None or isinstance(token, str) for token in tokens):
        _unsound()
    if not isinstance(special, list) or not all(isinstance(token, str) for token in special):
        _unsound()
    if decoder is not None and not isinstance(decoder, dict):
        _unsound()
    return TokenTable(tokens, frozenset(special), decoder)


def _body(reply: bytes) -> Mapping[str, object]:
    try:
        body = json.loads(reply)
    except (ValueError, RecursionError):
        _unsound()
    if not isinstance(body, dict):
        _unsound()
    error = body.get("error")
    if error is None:
        return body
    if not isinstance(error, dict):
        _unsound()
    code, message, hint = error.get("code"), error.get("message"), error.get("hint")
    if not isinstance(code, str) or not isinstance(message, str) or not isinstance(hint, str | None):
        _unsound()
    raise _ERRORS.get(code, TokenizerError)(message, hint=hint)


def _unsound() -> NoReturn:
    raise TokenizerError("The text process gave an answer that makes no sense.", hint="Take the model from elsewhere.")
