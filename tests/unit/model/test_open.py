import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.gguf.source import GgufSource
from tpid.model.huggingface import HuggingFaceSource
from tpid.model.open import open_source

Make = Callable[..., Any]


def test_knows_a_gguf_file_by_its_content(tiny_model: Make, write_gguf: Make, tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"))
    assert isinstance(open_source(path), GgufSource)
    assert isinstance(open_source(path.rename(tmp_path / "no suffix")), GgufSource)


def test_knows_a_hugging_face_directory(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path)
    assert isinstance(open_source(tmp_path), HuggingFaceSource)


def test_takes_a_directory_with_one_gguf_model(tiny_model: Make, write_gguf: Make, tmp_path: Path) -> None:
    write_gguf(tiny_model("qwen2"), split_max_tensors=10)
    assert isinstance(open_source(tmp_path), GgufSource)
    write_gguf(tiny_model("qwen2"), "b.gguf")
    with pytest.raises(UnsupportedModelError, match=r"2 GGUF models\. Name one of them"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model.safetensors", b"\x02\0\0\0\0\0\0\0{}", "without their config.json"),
        ("notes.txt", b"A model, I swear.", "not a GGUF file"),
    ],
)
def test_says_what_a_file_is_not(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UnsupportedModelError, match=message):
        open_source(tmp_path / name)


def test_says_that_nothing_is_there(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="neither"):
        open_source(tmp_path)
    with pytest.raises(ModelFileError, match="No such file"):
        open_source(tmp_path / "absent")


def test_does_not_wait_for_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ModelFileError, match="not a regular file"):
        open_source(tmp_path / "pipe")
