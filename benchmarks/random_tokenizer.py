"""A tokenizer for random weights: any text can be typed, and most tokens are words that can be read aloud."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice, product

from tokenizers.pre_tokenizers import ByteLevel

from tpid.model.byte_level_bpe import FAMILIES, byte_level_tokenizer
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer_parts import TokenType

PRE_TOKENIZER = "gpt-2"  # as GGUF names it
TURN_START, TURN_END = "<|im_start|>", "<|im_end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

_SPECIAL = (TURN_START, TURN_END)
_SPACE = "Ġ"  # how byte-level BPE writes a space
_CONSONANTS, _VOWELS = "bcdfghjklmnprstvwz", "aeiou"
_SYLLABLES = tuple(a + b for a, b in product(_CONSONANTS, _VOWELS))

MIN_VOCAB = len(_SPECIAL) + 256 + len(_SYLLABLES)


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """`len(tokens)` entries; the tokens of `merges` are all among them."""

    tokens: Sequence[str]
    types: Sequence[int]
    merges: Sequence[tuple[str, str]]


def random_vocabulary(size: int) -> Vocabulary:
    """Two marks of turns, the 256 bytes, syllables, then made-up words. `size` is `MIN_VOCAB` at least."""
    if size < MIN_VOCAB:
        raise ValueError(f"a vocabulary has {MIN_VOCAB} tokens at least, not {size}")
    known = [*_SPECIAL, *sorted(ByteLevel.alphabet()), *_SYLLABLES]
    n_syllables = 2
    while len(_SYLLABLES) ** n_syllables < size:
        n_syllables += 1
    words = (_SPACE + "".join(parts) for parts in product(_SYLLABLES, repeat=n_syllables))
    tokens = [*known, *islice(words, size - len(known))]
    types = [TokenType.CONTROL if token in _SPECIAL else TokenType.NORMAL for token in tokens]
    return Vocabulary(tokens, types, [(syllable[0], syllable[1]) for syllable in _SYLLABLES])


def random_tokenizer(vocab_size: int) -> TokenizerFiles:
    """No token ends an answer: a benchmark gets as many as it asks for."""
    words = random_vocabulary(vocab_size)
    tokenizer = byte_level_tokenizer(
        words.tokens, words.types, words.merges, FAMILIES[PRE_TOKENIZER], "the random vocabulary"
    )
    return TokenizerFiles(tokenizer.to_str().encode(), CHAT_TEMPLATE, None, None, ())
