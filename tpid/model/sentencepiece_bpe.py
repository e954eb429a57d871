"""SentencePiece BPE (Llama 2, TinyLlama, Mistral 7B) as a tokenizer of the tokenizers library.

Normalizer, decoder and merges are those of the `tokenizer.json` that Hugging Face's converter made for these models.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer, decoders, normalizers
from tokenizers.models import BPE

from tpid.errors import TokenizerError
from tpid.model.tokenizer_parts import TokenType, add_marked_tokens, check_merges, library_errors, vocabulary

MAX_PIECE_CHARS = 256  # merges are found by trying every cut of a piece; published pieces stay below 64

_SPACE = "▁"
_MERGED = (TokenType.NORMAL, TokenType.USER_DEFINED, TokenType.UNUSED)


@dataclass(frozen=True, slots=True)
class Pieces:
    """A SentencePiece vocabulary; the three sequences are as long as it."""

    tokens: Sequence[str]
    scores: Sequence[float]  # the higher, the earlier merged
    types: Sequence[int]  # TokenType
    add_space_prefix: bool = True


def sentencepiece_tokenizer(pieces: Pieces, where: str, merges: Sequence[tuple[str, str]] | None = None) -> Tokenizer:
    """Without BOS and EOS. Merges are derived from the scores unless given. Raises TokenizerError naming `where`."""
    _check(pieces, where)
    vocab = vocabulary(pieces.tokens, where)
    unknown = [token for token, type in zip(pieces.tokens, pieces.types, strict=True) if type == TokenType.UNKNOWN]
    byte_fallback = TokenType.BYTE in pieces.types
    if merges is None:
        merges = derive_merges(pieces, where)
    else:
        check_merges(merges, vocab, where)
    with library_errors(f"Building the tokenizer of {where}"):
        tokenizer = Tokenizer(
            BPE(
                vocab,
                list(merges),
                unk_token=unknown[0] if unknown else None,
                fuse_unk=True,
                byte_fallback=byte_fallback,
            )
        )
        tokenizer.normalizer = _normalizer(pieces.add_space_prefix)
        tokenizer.decoder = _decoder(pieces.add_space_prefix, byte_fallback)
        add_marked_tokens(tokenizer, pieces.tokens, pieces.types)
    return tokenizer


def _check(pieces: Pieces, where: str) -> None:
    lengths = {len(pieces.tokens), len(pieces.scores), len(pieces.types)}
    if len(lengths) != 1:
        raise TokenizerError(
            f"{where} has {len(pieces.tokens)} pieces but {len(pieces.scores)} scores and {len(pieces.types)} types."
        )
    longest = max(map(len, pieces.tokens), default=0)
    if longest > MAX_PIECE_CHARS:
        raise TokenizerError(f"{where} has a piece of {longest} characters, more than {MAX_PIECE_CHARS}.")
    if not all(map(math.isfinite, pieces.scores)):
        raise TokenizerError(f"{where} has a score that is not a finite number.")


def derive_merges(pieces: Pieces, where: str) -> list[tuple[str, str]]:
    """Every cut of a piece into two pieces, best score first, in the order of transformers' `generate_merges`.

    Raises TokenizerError naming `where`.
    """
    _check(pieces, where)
    vocab = {token: id for id, token in enumerate(pieces.tokens)}
    merged = {token for token, type in zip(pieces.tokens, pieces.types, strict=True) if type in _MERGED}
    merges: list[tuple[float, str, str]] = []
    for token, score in zip(pieces.tokens, pieces.scores, strict=True):
        if token not in merged:
            continue
        cuts = ((token[:at], token[at:]) for at in range(1, len(token)))
        halves = [cut for cut in cuts if cut[0] in merged and cut[1] in merged]
        halves.sort(key=lambda cut: (vocab[cut[0]], vocab[cut[1]]))
        merges.extend((score, left, right) for left, right in halves)
    merges.sort(key=lambda merge: (merge[0], len(merge[1]), len(merge[2])), reverse=True)
    return [(left, right) for _, left, right in merges]


def _normalizer(add_space_prefix: bool) -> normalizers.Normalizer:
    steps: list[normalizers.Normalizer] = [normalizers.Replace(" ", _SPACE)]
    if add_space_prefix:
        steps.insert(0, normalizers.Prepend(_SPACE))
    return normalizers.Sequence(steps)


def _decoder(add_space_prefix: bool, byte_fallback: bool) -> decoders.Decoder:
    steps: list[decoders.Decoder] = [decoders.Replace(_SPACE, " ")]
    if byte_fallback:
        steps.append(decoders.ByteFallback())
    steps.append(decoders.Fuse())
    if add_space_prefix:
        steps.append(decoders.Strip(content=" ", left=1))
    return decoders.Sequence(steps)
