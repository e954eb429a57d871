"""Text of others, made safe for a terminal: no escape sequences, nothing that turns the line around."""

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_CONTROLS = (*range(0x20), *range(0x7F, 0xA0))
_BIDIRECTIONAL = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
_LINE: dict[int, str | None] = dict.fromkeys((*_CONTROLS, *_BIDIRECTIONAL), _REPLACEMENT)
_TEXT = {code: to for code, to in _LINE.items() if chr(code) not in "\n\t"} | {ord("\r"): None}


def printable_text(text: str) -> str:
    """Newlines and tabs stay."""
    return text.translate(_TEXT)


def printable_line(text: str) -> str:
    return text.translate(_LINE)
