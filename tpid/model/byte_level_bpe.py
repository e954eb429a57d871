"""Byte-level BPE (GPT-2 and after it Llama 3, Qwen, SmolLM, Mistral NeMo) as a tokenizer of the tokenizers library.

The vocabulary and the merges say how a word is cut; how a text is cut into words is up to the family's splitter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE

from tpid.model.tokenizer_parts import TokenType, add_marked_tokens, check_merges, library_errors, vocabulary

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + _REST
_QWEN2 = _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + _REST
_CAPITAL_FIRST = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
_CAPITALS = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
_REST_WITH_SLASHES = r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_TEKKEN = rf"{_CAPITAL_FIRST}|{_CAPITALS}|\p{{N}}{_REST_WITH_SLASHES}"
_GPT4O = rf"{_CAPITAL_FIRST}{_CONTRACTIONS}?|{_CAPITALS}{_CONTRACTIONS}?|\p{{N}}{{1,3}}{_REST_WITH_SLASHES}"


@dataclass(frozen=True, slots=True)
class Family:
    """What a family's own `tokenizer.json` does before the merges."""

    regex: str | None = None  # cuts the text into words; None is GPT-2's own
    single_digits: bool = False  # cut before the regex so that each digit is a word
    nfc: bool = False  # normalize the text to Unicode's composed form
    whole_words_first: bool = False  # a word that is a token is that token, whatever the merges say
    adds_bos: bool = False  # unless a file says otherwise


_GPT2 = Family()
_LLAMA3_FAMILY = Family(_LLAMA3, whole_words_first=True, adds_bos=True)
_QWEN2_FAMILY = Family(_QWEN2, nfc=True)

# By the names that llama.cpp gives to splitters (`tokenizer.ggml.pre`).
FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "default": _GPT2,
        "gpt-2": _GPT2,
        "gpt2": _GPT2,
        "smollm": Family(single_digits=True),
        "llama-bpe": _LLAMA3_FAMILY,
        "llama3": _LLAMA3_FAMILY,
        "llama-v3": _LLAMA3_FAMILY,
        "qwen2": _QWEN2_FAMILY,
        "deepseek-r1-qwen": _QWEN2_FAMILY,
        **dict.fromkeys(("refact", "starcoder"), Family(single_digits=True)),  # Granite 3
        **dict.fromkeys(("smaug-bpe", "dbrx", "glm4", "chatglm-bpe"), Family(_LLAMA3)),  # SmolLM3, Phi-4, GLM-4
        "gpt-4o": Family(_GPT4O),  # Phi-4-mini
        "tekken": Family(_TEKKEN, whole_words_first=True, adds_bos=True),
    }
)


def byte_level_tokenizer(
    tokens: Sequence[str], types: Sequence[int], merges: Sequence[tuple[str, str]], family: Family, where: str
) -> Tokenizer:
    """Without BOS and EOS. `types` are TokenType. Raises TokenizerError naming `where`."""
    n_tokens = len(tokens)
    while n_tokens and types[n_tokens - 1] == TokenType.UNUSED:  # padding of the embedding: no text gives these
        n_tokens -= 1
    vocab = vocabulary(tokens[:n_tokens], where)
    check_merges(merges, vocab, where)
    with library_errors(f"Building the tokenizer of {where}"):
        tokenizer = Tokenizer(BPE(vocab, list(merges), fuse_unk=False, ignore_merges=family.whole_words_first))
        if family.nfc:
            tokenizer.normalizer = normalizers.NFC()
        tokenizer.pre_tokenizer = _pre_tokenizer(family)
        tokenizer.decoder = decoders.ByteLevel()
        add_marked_tokens(tokenizer, tokens[:n_tokens], types[:n_tokens])
    return tokenizer


def _pre_tokenizer(family: Family) -> pre_tokenizers.PreTokenizer:
    steps: list[pre_tokenizers.PreTokenizer] = []
    if family.single_digits:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    if family.regex is not None:
        steps.append(pre_tokenizers.Split(Regex(family.regex), behavior="isolated"))
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=family.regex is None))
    return pre_tokenizers.Sequence(steps)
