"""The tokenizer in a GGUF file's metadata, which is given as a JSON object here."""

import json

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.gguf.tokenizer import tokenizer_files_from_gguf
from tpid.model.token_rows import with_rows_only
from tpid.model.tokenizer import Tokenizer


def fuzz(data: bytes) -> None:
    try:
        metadata = json.loads(data)
    except (ValueError, RecursionError):
        return
    if not isinstance(metadata, dict):
        return
    try:
        files = with_rows_only(tokenizer_files_from_gguf(metadata), 300, "it")
        tokenizer = Tokenizer.from_json(files.tokenizer_json)
        tokenizer.decode(tokenizer.encode("a b<s>", add_special=True))
    except (TokenizerError, UnsupportedModelError):
        return
