"""Text of an answer while its tokens come in, the same as decoding the whole answer at its end.

Each step of the tokenizer's decoder becomes a stage that takes token texts and gives those that are final. Constant
time a token, but for byte-fallback runs: their text is known only when they end (see `_ByteFallback`).
"""

import codecs
import re
from collections.abc import Callable, Mapping
from typing import Protocol

from tpid.errors import TokenizerError

_MAX_TOKEN_CHARS = 1 << 20
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"


class Tokens(Protocol):
    """What a decoder asks of a tokenizer."""

    def id_to_token(self, id: int) -> str | None: ...

    def is_special(self, token: str) -> bool: ...

    def decoder_settings(self) -> Mapping[str, object] | None: ...


class StreamDecoder:
    """One for each answer. The joined results of all `push` and of `flush` are `tokenizer.decode(ids)`."""

    def __init__(self, tokenizer: Tokens, skip_special: bool = True) -> None:
        """Raises TokenizerError where the tokenizer decodes in a way that cannot be streamed."""
        self._tokenizer = tokenizer
        self._skip_special = skip_special
        self._stages = _stages(tokenizer.decoder_settings())

    def push(self, id: int) -> str:
        """Text that is final now: never a part of a character, nor a replacement for one that may yet be completed."""
        token = self._tokenizer.id_to_token(id)
        if token is None or (self._skip_special and self._tokenizer.is_special(token)):
            return ""
        texts = [token]
        for stage in self._stages:
            texts = stage.push(texts)
        return "".join(texts)

    def flush(self) -> str:
        """The rest, when no more tokens come."""
        texts: list[str] = []
        for stage in self._stages:
            texts = stage.push(texts) + stage.flush()
        return "".join(texts)


class _Stage(Protocol):
    def push(self, texts: list[str]) -> list[str]: ...

    def flush(self) -> list[str]: ...


class _EachText:
    """A step that looks at one token text at a time."""

    def __init__(self, change: Callable[[str], str]) -> None:
        self._change = change

    def push(self, texts: list[str]) -> list[str]:
        return [self._change(text) for text in texts]

    def flush(self) -> list[str]:
        return []


class _ByteLevel:
    """Tokens are spelled in an alphabet of 256 characters that stand for bytes."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, texts: list[str]) -> list[str]:
        return [self._decoder.decode(spelled_bytes(text)) for text in texts]

    def flush(self) -> list[str]:
        return [self._decoder.decode(b"", final=True)]


class _ByteFallback:
    """`<0xE2>` is a byte. A run of them becomes text as a whole or, if it is not UTF-8, one replacement a byte.

    So a run is held until another token ends it: its last byte may still spoil it.
    """

    def __init__(self) -> None:
        self._run = bytearray()

    def push(self, texts: list[str]) -> list[str]:
        final: list[str] = []
        for text in texts:
            byte = fallback_byte(text)
            if byte is None:
                final += [*self.flush(), text]
            else:
                self._run.append(byte)
        return final

    def flush(self) -> list[str]:
        run, self._run = self._run, bytearray()
        try:
            return [run.decode()]
        except UnicodeDecodeError:
            return [_REPLACEMENT] * len(run)


class _StripStart:
    """Up to `count` times `content` is cut from the start of the whole text."""

    def __init__(self, content: str, count: int) -> None:
        self._content = content
        self._left = count

    def push(self, texts: list[str]) -> list[str]:
        return [self._strip(text) for text in texts] if self._left else texts

    def flush(self) -> list[str]:
        return []

    def _strip(self, text: str) -> str:
        while text and self._left:
            if not text.startswith(self._content):
                self._left = 0
                break
            text = text[1:]
            self._left -= 1
        return text


class _Metaspace:
    """A mark stands for a space; before the first word there is none."""

    def __init__(self, mark: str, prefixed: bool) -> None:
        self._mark = mark
        self._drop_next = prefixed

    def push(self, texts: list[str]) -> list[str]:
        final = []
        for text in texts:
            final.append(text.replace(self._mark, "" if self._drop_next else " "))
            self._drop_next = False
        return final

    def flush(self) -> list[str]:
        return []


class _JoinBySpaces:
    """What the library does where a tokenizer has no decoder."""

    def __init__(self) -> None:
        self._separator = ""

    def push(self, texts: list[str]) -> list[str]:
        final = []
        for text in texts:
            final.append(self._separator + text)
            self._separator = " "
        return final

    def flush(self) -> list[str]:
        return []


def _stages(settings: Mapping[str, object] | None) -> list[_Stage]:
    if settings is None:
        return [_JoinBySpaces()]
    steps = settings["decoders"] if settings["type"] == "Sequence" else [settings]
    stages: list[_Stage] = []
    whole = False  # whether steps see the text joined from here on
    for step in steps:  # type: ignore[attr-defined]  # the library has checked its own format
        stages += _stage(step, whole)
        whole = whole or step["type"] in ("Fuse", "ByteLevel")
    return stages


def _stage(step: Mapping[str, object], whole: bool) -> list[_Stage]:
    match step:
        case {"type": "Fuse"}:
            return []
        case {"type": "ByteLevel"}:
            return [_ByteLevel()]
        case {"type": "ByteFallback"} if not whole:
            return [_ByteFallback()]
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)} if not whole or len(old) == 1:
            return [_EachText(lambda text: _replaced(text, old, new))]
        case {"type": "Strip", "content": str(content), "start": int(start), "stop": 0} if whole:
            return [_StripStart(content, start)]
        case {"type": "Metaspace", "replacement": str(mark), "prepend_scheme": scheme} if not whole:
            return [_Metaspace(mark, prefixed=scheme != "never")]
    raise TokenizerError(f"The tokenizer's decoder has a step {step.get('type')!r} that tpid cannot stream.")


def _replaced(text: str, old: str, new: str) -> str:
    """Raises TokenizerError before a chain of replacements takes memory without bound."""
    if len(text) + text.count(old) * len(new) > _MAX_TOKEN_CHARS:
        raise TokenizerError(f"The tokenizer's decoder makes more than {_MAX_TOKEN_CHARS} characters of one token.")
    return text.replace(old, new)


def spelled_bytes(token: str) -> bytes:
    """An added token may be spelled in plain characters; then it stands for itself."""
    try:
        return bytes(_BYTE_OF[character] for character in token)
    except KeyError:
        return token.encode()


def fallback_byte(token: str) -> int | None:
    match = _FALLBACK.fullmatch(token)
    return int(match[1], 16) if match else None


def _byte_alphabet() -> Mapping[str, int]:
    """GPT-2's: printable Latin-1 characters stand for themselves, the other bytes for characters from U+0100 on."""
    printable = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTE_OF = _byte_alphabet()
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2}|\+[0-9A-Fa-f])>")  # what the library's number parser takes
