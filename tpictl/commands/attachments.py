"""Files that a prompt names by `@path`: their text goes along."""

import os
import re
from pathlib import Path
from typing import Final

from tpictl.commands.conversation import Prompt
from tpid.errors import RequestError
from tpid.size import shown_size

MAX_FILE_BYTES: Final = 256_000  # about 64,000 tokens: more than the context of most models
MAX_FILES: Final = 16
_NAMED: Final = re.compile(r'(?<!\S)@(?:"([^"\x00-\x1f]+)"|([^\s"@\x00-\x1f][^\s"\x00-\x1f]*))')
_BEHIND: Final = ".,;:!?)]}'"  # of a sentence, not of a path
_PICTURES: Final = {
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"GIF8": "an image",
    b"BM": "an image",
    b"RIFF": "an image or sound",
    b"II*\0": "an image",
    b"MM\0*": "an image",
    b"%PDF": "a PDF",
    b"PK\x03\x04": "an archive or an office document",
    b"\x1f\x8b": "an archive",
}
_ANOTHER_WAY: Final = "Models here read text. For a plain @, write @@."


def with_files(typed: str) -> Prompt:
    """The prompt with the texts of its files behind it; `@@` stands for a plain `@`.

    A word with an `@` is a file's where there is such a file, or where it looks like a path. Raises RequestError.
    """
    paths: list[Path] = []
    for quoted, bare in _NAMED.findall(typed):
        path = _at_home(quoted) if quoted else _file_of(bare)
        if path is not None and path not in paths:
            paths.append(path)
    if len(paths) > MAX_FILES:
        raise RequestError(f"The prompt names {len(paths)} files.", hint=f"Name {MAX_FILES} at most.")
    text = re.sub(r"(?<!\S)@@", "@", typed)
    return Prompt(typed, "\n\n".join([text, *(f"{path}:\n{_fenced(_text_of(path))}" for path in paths)]))


def _file_of(word: str) -> Path | None:
    """None where the word is no path: somebody's name."""
    bare = word.rstrip(_BEHIND)
    for name in dict.fromkeys((word, bare)):
        if name and os.path.isfile(_at_home(name)):  # unlike Path.is_file, of any string
            return _at_home(name)
    looks_like_a_path = "/" in bare or "." in bare
    return _at_home(bare) if looks_like_a_path else None


def _at_home(name: str) -> Path:
    """A `~` at the beginning is somebody's home, where there is such a user."""
    return Path(os.path.expanduser(name))


def _text_of(path: Path) -> str:
    """Raises RequestError where it is no text, or too much."""
    try:
        if not os.path.isfile(path):
            there = "is no plain file" if os.path.exists(path) else "does not exist"
            what = "is a directory" if os.path.isdir(path) else there
            raise RequestError(f"{path} {what}.", hint="Name a text file. For a plain @, write @@.")
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise RequestError(f"{path} cannot be read: {error.strerror or error}.", hint=_ANOTHER_WAY) from None
    kind = next((kind for magic, kind in _PICTURES.items() if data.startswith(magic)), None)
    if kind is not None and not _is_text(data):
        raise RequestError(f"{path} is {kind}.", hint=_ANOTHER_WAY)
    if len(data) > MAX_FILE_BYTES:
        raise RequestError(f"{path} is larger than {shown_size(MAX_FILE_BYTES)}.", hint="Name a part of it.")
    if not _is_text(data):
        raise RequestError(f"{path} is not text in UTF-8.", hint=_ANOTHER_WAY)
    return data.decode()


def _is_text(data: bytes) -> bool:
    try:
        return "\0" not in data.decode()
    except UnicodeDecodeError:
        return False


def _fenced(text: str) -> str:
    """In a fence that is longer than any inside."""
    longest = max((len(run) for run in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}\n{text.rstrip()}\n{fence}"
