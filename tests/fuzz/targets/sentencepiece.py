"""SentencePiece's tokenizer.model, and the tokenizer that comes of it."""

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.sentencepiece_bpe import sentencepiece_tokenizer
from tpid.model.sentencepiece_file import read_sentencepiece
from tpid.model.tokenizer import Tokenizer


def fuzz(data: bytes) -> None:
    try:
        file = read_sentencepiece(data, "it")
        tokenizer = Tokenizer(sentencepiece_tokenizer(file.pieces, "it"))
        tokenizer.decode(tokenizer.encode("a b\n€<s>", add_special=True))
    except (TokenizerError, UnsupportedModelError):
        return
