"""What all our tokenizers are assembled from, whatever the file they come from."""

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum

from tokenizers import AddedToken, Tokenizer
from tokenizers.processors import TemplateProcessing

from tpid.errors import TokenizerError

# Tokens that end a turn in the chat formats of the supported families, whatever a model's files declare.
_TURN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|eom_id|>")


class TokenType(IntEnum):
    """As SentencePiece numbers them, and GGUF after it."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@contextmanager
def library_errors(what: str) -> Iterator[None]:
    """Raise as TokenizerError whatever the tokenizers library raises while it does `what`, panics included."""
    try:
        yield
    except TokenizerError:
        raise
    except Exception as error:
        raise TokenizerError(f"{what} failed: {_one_line(error)}.") from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a Rust panic is no Exception, and its type is not exported
            raise
        raise TokenizerError(f"{what} failed within the tokenizers library: {_one_line(error)}.") from error


def vocabulary(tokens: Sequence[str], where: str) -> dict[str, int]:
    """Ids by text. Raises TokenizerError where two tokens have one text."""
    vocab: dict[str, int] = {}
    for id, token in enumerate(tokens):
        if vocab.setdefault(token, id) != id:
            raise TokenizerError(f"{where} has the token {token[:60]!r} twice, with the ids {vocab[token]} and {id}.")
    return vocab


def check_merges(merges: Iterable[tuple[str, str]], vocab: Container[str], where: str) -> None:
    """The library panics on merges whose tokens are not all in the vocabulary. Raises TokenizerError."""
    for left, right in merges:
        if left not in vocab or right not in vocab or left + right not in vocab:
            raise TokenizerError(
                f"{where} merges {left[:60]!r} and {right[:60]!r}, but lacks one of them or the result."
            )


def add_marked_tokens(tokenizer: Tokenizer, tokens: Sequence[str], types: Sequence[int]) -> None:
    """Make control, unknown and user-defined tokens, all in the vocabulary already, match as a whole in the text."""
    marked = [
        AddedToken(token, normalized=False, special=type != TokenType.USER_DEFINED)
        for token, type in zip(tokens, types, strict=True)
        if type in (TokenType.CONTROL, TokenType.UNKNOWN, TokenType.USER_DEFINED) and token
    ]
    if marked:
        tokenizer.add_tokens(marked)


def add_bos_eos(tokenizer: Tokenizer, bos: tuple[str, int] | None, eos: tuple[str, int] | None) -> None:
    """Put the tokens `(token, id)` around every text that is encoded with special tokens."""
    around = {name: token for name, token in (("BOS", bos), ("EOS", eos)) if token}
    single = [*(["BOS"] if bos else []), "$A", *(["EOS"] if eos else [])]
    tokenizer.post_processor = TemplateProcessing(
        single=single,
        pair=[*single, "$B:1"],
        special_tokens=[{"id": name, "ids": [id], "tokens": [token]} for name, (token, id) in around.items()],
    )


def ending_ids(tokenizer: Tokenizer, declared: Sequence[int]) -> tuple[int, ...]:
    """`declared` and the well-known ends of a turn that are added tokens of this tokenizer; sorted."""
    added: Mapping[int, AddedToken] = tokenizer.get_added_tokens_decoder()
    ids = {id for id, token in added.items() if token.content in _TURN_ENDS}
    return tuple(sorted(ids.union(declared)))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
