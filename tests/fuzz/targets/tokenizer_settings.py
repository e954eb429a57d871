"""The text files of a Hugging Face directory, one after the other between zero bytes; an empty one is left out."""

import tempfile
from pathlib import Path

from tokenizers import Tokenizer as RawTokenizer
from tokenizers.models import BPE

from tpid.errors import TokenizerError, UnsupportedModelError
from tpid.model.chat_template import ChatTemplate
from tpid.model.token_rows import with_rows_only
from tpid.model.tokenizer import Tokenizer
from tpid.model.tokenizer_files import tokenizer_files_from_directory

NAMES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "generation_config.json",
    "chat_template.jinja",
    "tokenizer.json",
)
_LETTERS = {chr(ord("a") + n): n for n in range(26)}
_PLAIN = RawTokenizer(BPE(_LETTERS, [])).to_str().encode()  # where there is none


def fuzz(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        for name, content in zip(NAMES, data.split(b"\0", len(NAMES) - 1), strict=False):
            if content:
                (Path(directory) / name).write_bytes(content)
        if not (Path(directory) / "tokenizer.json").exists():
            (Path(directory) / "tokenizer.json").write_bytes(_PLAIN)
        try:
            files = with_rows_only(tokenizer_files_from_directory(Path(directory)), 30, "it")
            tokenizer = Tokenizer.from_json(files.tokenizer_json)
            tokenizer.decode(tokenizer.encode("abc<s>", add_special=True))
        except (TokenizerError, UnsupportedModelError):
            return
    ChatTemplate("{{ pad_token }}", files.bos_token, files.eos_token, other_tokens=files.other_tokens).render([])
