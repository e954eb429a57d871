"""Which tokens of a GGUF file are special, and which of them end an answer: what the file says, and what it forgot.

Many files type the marks of their chat format as ordinary text, or name one of several ends. llama.cpp goes by the
texts of tokens then, and so do we; but what a merge gives is ordinary text, whatever it looks like.
"""

import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tpid.model.tokenizer_parts import TokenType

END_ROLES = ("eos", "eot", "eom", "fim_pad", "fim_rep", "fim_sep")  # metadata keys without "_token_id"
SPECIAL_ROLES = (*END_ROLES, "bos", "unknown", "padding", "seperator", "cls", "mask")  # as GGUF spells them

# The texts that llama.cpp takes as ends, whatever is declared.
_END_TEXTS = frozenset(
    {
        *("<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>"),
        *("<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>"),
        *("<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~["),
        *("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
        *("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>", "<|file_sep|>"),
    }
)
_HARMONY = ({"<|return|>", "<|call|>"}, {"<|flush|>", "<|call|>"}, {"<|flush|>", "<|calls|>"})  # <|end|> goes on there

_MARKUP = re.compile(r"[<\[{].*[>\]}]", re.DOTALL)
_CONTROL = re.compile(r"<[|｜].*[|｜]>", re.DOTALL)  # hidden in an answer, unlike <think>
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_N_BYTES = 256
_UNKNOWN = "<unk>"
_WHOLE = (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED)
_SCANNED_CHARS = 1 << 16  # of a template
_MAX_CANDIDATES = 1 << 12
_NAMED_AT_MOST = 8  # tokens in one note


@dataclass(frozen=True, slots=True)
class SpecialTokens:
    types: Sequence[int]  # TokenType of each token
    end_ids: frozenset[int]
    notes: tuple[str, ...]


def settle_special_tokens(
    tokens: Sequence[str],
    types: Sequence[int],
    roles: Mapping[str, int],
    merged: Container[str],
    template: str | None,
) -> SpecialTokens:
    """`roles` are ids by SPECIAL_ROLES, `merged` the texts that merges give."""
    named = frozenset(tokens[id] for id in roles.values())
    settled = list(types)
    hidden: list[str] = []
    whole: list[str] = []
    for id, token in enumerate(tokens):
        if settled[id] in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.BYTE) or _is_ordinary(token, merged):
            continue
        if token in _END_TEXTS or token in named:
            settled[id] = TokenType.CONTROL
            hidden.append(token)
    for id in _in_template(tokens, settled, merged, template):
        control = _CONTROL.fullmatch(tokens[id])
        settled[id] = TokenType.CONTROL if control else TokenType.USER_DEFINED
        (hidden if control else whole).append(tokens[id])
    declared = {roles[role] for role in END_ROLES if role in roles}
    notes = [
        _note("does not mark as special", hidden, "taken as special tokens all the same"),
        _note("does not mark as whole tokens", whole, "which its chat template writes: taken as such"),
    ]
    ends = frozenset(declared | _ends_by_text(tokens, settled))
    return SpecialTokens(settled, ends, tuple(note for note in notes if note))


def settle_bytes(tokens: Sequence[str], types: Sequence[int]) -> Sequence[int]:
    """The types of a SentencePiece vocabulary; llama.cpp finds its bytes and the unknown token by their texts too."""
    settled = list(types)
    if TokenType.BYTE not in settled:
        at = [id for id, token in enumerate(tokens) if _BYTE.fullmatch(token)]
        for id in at if len(at) == _N_BYTES else ():
            settled[id] = TokenType.BYTE
    if TokenType.UNKNOWN not in settled and tokens[0] == _UNKNOWN:
        settled[0] = TokenType.UNKNOWN
    return settled


def _is_ordinary(token: str, merged: Container[str]) -> bool:
    return len(token) < 2 or token in merged


def _ends_by_text(tokens: Sequence[str], types: Sequence[int]) -> set[int]:
    ends = {token: id for id, token in enumerate(tokens) if token in _END_TEXTS and types[id] == TokenType.CONTROL}
    if any(texts <= ends.keys() for texts in _HARMONY):
        ends.pop("<|end|>", None)
    if "<|tool_response>" in ends:
        ends.pop("</s>", None)
    return set(ends.values())


def _in_template(
    tokens: Sequence[str], types: Sequence[int], merged: Container[str], template: str | None
) -> Iterable[int]:
    """Tokens that the template writes, that look like markup, and that no text would ever give."""
    if not template:
        return []
    candidates = [
        id
        for id, token in enumerate(tokens)
        if types[id] not in _WHOLE and types[id] != TokenType.BYTE and _MARKUP.fullmatch(token) and token not in merged
    ]
    start = template[:_SCANNED_CHARS]
    return [id for id in candidates[:_MAX_CANDIDATES] if tokens[id] in start]


def _note(what: str, tokens: Sequence[str], consequence: str) -> str | None:
    if not tokens:
        return None
    more = f" and {len(tokens) - _NAMED_AT_MOST} more" if len(tokens) > _NAMED_AT_MOST else ""
    return f"The GGUF file {what}: {', '.join(token[:60] for token in tokens[:_NAMED_AT_MOST])}{more}; {consequence}."
