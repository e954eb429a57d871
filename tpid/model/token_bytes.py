"""What a single token stands for, in bytes: a part of a character, where a token is one."""

from collections.abc import Mapping

from tpid.model.detokenizer import Tokens, fallback_byte, spelled_bytes


def token_bytes(tokenizer: Tokens, id: int) -> bytes:
    """Empty for an id without a token; special tokens are spelled as they are. What is only cut at the start of a
    whole text (a space before the first word) is left in."""
    token = tokenizer.id_to_token(id)
    if token is None:
        return b""
    settings = tokenizer.decoder_settings()
    if settings is None or tokenizer.is_special(token):
        return token.encode()
    steps = settings["decoders"] if settings["type"] == "Sequence" else [settings]
    for step in steps:  # type: ignore[attr-defined]  # the library has checked its own format
        spelled = _step(step, token)
        if isinstance(spelled, bytes):
            return spelled
        token = spelled
    return token.encode()


def _step(step: Mapping[str, object], token: str) -> str | bytes:
    match step:
        case {"type": "ByteLevel"}:
            return spelled_bytes(token)
        case {"type": "ByteFallback"} if (byte := fallback_byte(token)) is not None:
            return bytes([byte])
        case {"type": "Replace", "pattern": {"String": str(old)}, "content": str(new)}:
            return token.replace(old, new)
        case {"type": "Metaspace", "replacement": str(mark)}:
            return token.replace(mark, " ")
    return token
