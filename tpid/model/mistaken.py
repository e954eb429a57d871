"""What lies where a model was expected: the files that people take for one, told by their first bytes or their name."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.size import shown_size

START_BYTES = 512  # that tell all of these apart

_LFS_START = b"version https://git-lfs.github.com/spec/"
_MAX_POINTER_BYTES = 1024
_LFS_SIZE = re.compile(rb"^size (\d{1,18})$", re.MULTILINE)
_HTML_STARTS = (b"<!doctype", b"<html", b"<?xml")
_OLD_GGML = (b"lmgg", b"fmgg", b"tjgg", b"algg")
_PIECE = re.compile(r"(\.part-?\d+(-?of-?\d+)?|\.\d{3}|[-.]split-?[a-z]{1,2}|\.gguf\.?[a-z]{2})$", re.IGNORECASE)
_UNFINISHED = (".part", ".partial", ".incomplete", ".crdownload", ".download", ".aria2", ".tmp")


@dataclass(frozen=True, slots=True)
class Found:
    """A file is `what`; `hint` says what to do."""

    what: str
    hint: str


_TAKE_SAFETENSORS = "Take the model as safetensors or GGUF: its publisher, or others, mostly have it so."
_KINDS: Sequence[tuple[tuple[bytes, ...], Found]] = [
    (
        (b"PK\x03\x04", b"\x80\x02", b"\x80\x04"),
        Found("a PyTorch file (pickle), which could run programs", _TAKE_SAFETENSORS),
    ),
    (_OLD_GGML, Found("a GGML file of before GGUF", "Take a newer conversion of the model, a .gguf file.")),
    ((b"\x93NUMPY",), Found("a NumPy file", _TAKE_SAFETENSORS)),
    ((b"\x89HDF",), Found("a TensorFlow file", _TAKE_SAFETENSORS)),
    (
        (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"7z\xbc\xaf", b"Rar!"),
        Found("a packed archive", "Unpack it, then import what is in it."),
    ),
]


def refuse_pointer(path: Path, start: bytes, size_bytes: int) -> None:
    """Raises ModelFileError for what git leaves in the place of a large file where git-lfs is missing."""
    if size_bytes > _MAX_POINTER_BYTES or not start.startswith(_LFS_START):
        return
    size = _LFS_SIZE.search(start)
    of_size = f" of {shown_size(int(size[1]))}" if size else ""
    raise ModelFileError(
        f"{path} is a git-lfs pointer, not the file{of_size} that it stands for.",
        hint=f"Install git-lfs, then run `git lfs pull` in {path.parent}; or download the file itself.",
    )


def found_instead(path: Path, start: bytes) -> Found | None:
    """What a file is that does not begin as a model does, where that can be told."""
    if not start:
        return Found("an empty file", "The download has not begun: download it again.")
    if start.lstrip().lower().startswith(_HTML_STARTS):
        return Found(
            "a web page, not the file that it shows",
            "Use the page's download link; where the publisher asks for it, log in and accept the license first.",
        )
    for starts, found in _KINDS:
        if start.startswith(starts):
            return found
    hint = piece_hint(path)
    if hint is not None:
        return Found("not a model by itself", hint)
    if not any(start) or path.suffix.lower() in _UNFINISHED:
        return Found("an unfinished download", "Let it come to its end, or begin it again.")
    return None


def piece_hint(path: Path) -> str | None:
    """What to do with one piece of a file that was cut by its bytes; None where the name does not look like one."""
    if not _PIECE.search(path.name):
        return None
    return "It looks like a piece of a larger file: join all pieces in their order with cat, then import the whole."


def unknown_directory(path: Path, names: Sequence[str]) -> UnsupportedModelError:
    """Why a directory without config.json and GGUF files, with these `names` in it, is no model."""
    if "adapter_config.json" in names:
        return adapter_error(path)
    snapshots = _models_in(path / "snapshots") if "snapshots" in names else []
    if snapshots:
        newest = max(snapshots, key=lambda snapshot: snapshot.stat().st_mtime)
        return UnsupportedModelError(
            f"{path} is a cache of Hugging Face, the model lies deeper.", hint=f"Give {newest}."
        )
    if "params.json" in names:
        return UnsupportedModelError(
            f"{path} holds a model in its maker's own layout (params.json).",
            hint="Take the version for transformers, with a config.json, or a GGUF file.",
        )
    if any(name.endswith(".safetensors") for name in names):
        return UnsupportedModelError(
            f"{path} holds weights without their config.json.",
            hint="Download config.json and the tokenizer's files into it, from where the weights are.",
        )
    if any(name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl")) for name in names):
        return pickle_error(path)
    deeper = _models_in(path)
    return UnsupportedModelError(
        f"{path} holds neither config.json nor a GGUF file: not a model that tpid knows.",
        hint=f"Give the directory of one model, such as {deeper[0]}."
        if deeper
        else "Give a GGUF file, or the directory of one model.",
    )


def _models_in(path: Path) -> list[Path]:
    """Directories in it that may hold a model."""
    return sorted({found.parent for pattern in ("*/config.json", "*/*.gguf") for found in path.glob(pattern)})


def adapter_error(path: Path | str) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} is an adapter (LoRA): a change of a model, not a model.",
        hint="Merge it into its base model (merge_and_unload of peft) and import the result, or take a merged version.",
    )


def pickle_error(path: Path) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{path} holds its weights as PyTorch files (pickle), which could run programs.", hint=_TAKE_SAFETENSORS
    )
