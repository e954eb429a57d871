"""Tokens that a model's embedding has no row for: an added token, usually, that the model never learnt."""

import json
from collections.abc import Mapping
from dataclasses import replace

from tokenizers import Tokenizer

from tpid.errors import TokenizerError
from tpid.model.source import TokenizerFiles
from tpid.model.tokenizer_parts import library_errors

_NAMED_AT_MOST = 4  # tokens in one message


def with_rows_only(files: TokenizerFiles, n_rows: int, where: str) -> TokenizerFiles:
    """`files` without added tokens of ids from `n_rows` on: their text is ordinary text then, as a note says.

    Raises TokenizerError naming `where` where the tokenizer cannot do without them.
    """
    with library_errors(f"Reading the tokenizer of {where}"):
        tokenizer = Tokenizer.from_str(files.tokenizer_json.decode())
        beyond = {token: id for token, id in tokenizer.get_vocab().items() if id >= n_rows}
    if not beyond:
        return files
    names = _listed(beyond)
    settings = json.loads(files.tokenizer_json)
    added = {token["content"] for token in settings["added_tokens"]}
    if not beyond.keys() <= added:
        raise TokenizerError(
            f"{where} has {n_rows} tokens in its embedding, but its tokenizer has {names} beyond them.",
            hint="The files are not of one model: download them again.",
        )
    settings["added_tokens"] = [token for token in settings["added_tokens"] if token["id"] < n_rows]
    vocab = settings["model"]["vocab"]
    if isinstance(vocab, dict):
        settings["model"]["vocab"] = {token: id for token, id in vocab.items() if token not in beyond}
    with library_errors(f"Leaving {names} out of the tokenizer of {where}"):
        kept = Tokenizer.from_str(json.dumps(settings)).to_str().encode()
    note = f"{where} has no row in its embedding for {names}: what looks like it is read as ordinary text."
    return replace(
        files,
        tokenizer_json=kept,
        eos_ids=tuple(id for id in files.eos_ids if id < n_rows),
        notes=(*files.notes, note),
    )


def _listed(tokens: Mapping[str, int]) -> str:
    named = sorted(tokens, key=tokens.__getitem__)[:_NAMED_AT_MOST]
    shown = ", ".join(f"{token[:60]!r} (token {tokens[token]})" for token in named)
    return shown + (f" and {len(tokens) - len(named)} more" if len(tokens) > len(named) else "")
