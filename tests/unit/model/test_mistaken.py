"""What people take for a model: the message says what it is, the hint what to do, true of that very file."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tpid.errors import ModelError, TpidError
from tpid.model.open import open_source
from tpid.model.tokenizer_files import tokenizer_files_from_directory

Make = Callable[..., Any]

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 4976698672\n"


def refusal(path: Path) -> str:
    """Message and hint, without the directory's own name."""
    with pytest.raises(ModelError) as caught:
        open_source(path)
    assert caught.value.hint
    return str(caught.value)


@pytest.fixture
def published(tiny_model: Make, tmp_path: Path) -> Path:
    """A Hugging Face directory."""
    tiny_model("llama").save_pretrained(tmp_path / "published")
    return tmp_path / "published"


def configure(directory: Path, **changes: Any) -> None:
    path = directory / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "m.gguf"])
def test_a_pointer_of_git_lfs(name: str, published: Path) -> None:
    (published / name).write_text(POINTER)
    said = refusal(published / name if name == "m.gguf" else published)
    assert f"{name} is a git-lfs pointer, not the file of 4.98 GB that it stands for" in said
    assert f"`git lfs pull` in {published}" in said


def test_a_tokenizer_that_is_a_pointer_of_git_lfs(published: Path) -> None:
    (published / "tokenizer.json").write_text(POINTER)
    with pytest.raises(TpidError, match="git-lfs pointer"):
        tokenizer_files_from_directory(published)


@pytest.mark.parametrize(
    ("name", "content", "message", "hint"),
    [
        ("m.gguf", b"<!DOCTYPE html><html>", "a web page", "download link"),
        ("m.gguf", b"\n <html lang=en>", "a web page", "log in"),
        ("m.gguf", b"", "an empty file", "download it again"),
        ("m.gguf", bytes(4096), "an unfinished download", "begin it again"),
        ("m.gguf.part", b"GGU", "an unfinished download", "come to its end"),
        ("m.gguf.part2of2", b"\x12\x34", "not a model by itself", "join all pieces"),
        ("m.gguf-split-b", b"\x12\x34", "not a model by itself", "join all pieces"),
        ("m.bin", b"lmgg\1\0\0\0", "GGML file of before GGUF", "newer conversion"),
        ("pytorch_model.bin", b"PK\x03\x04", "pickle", "as safetensors or GGUF"),
        ("old.pt", b"\x80\x02\x8a\x0a", "pickle", "as safetensors or GGUF"),
        ("model.tar.gz", b"\x1f\x8b\x08", "packed archive", "Unpack it"),
        ("config.json", b"{}", "one file of a model", "Give its directory"),
    ],
)
def test_a_file(name: str, content: bytes, message: str, hint: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    said = refusal(tmp_path / name)
    assert said.startswith(str(tmp_path / name))
    assert message in said
    assert hint in said


@pytest.mark.parametrize(("content", "message"), [(b"<!doctype html>" * 99, "web page"), (bytes(999), "unfinished")])
def test_weights_that_are_something_else(content: bytes, message: str, published: Path) -> None:
    (published / "model.safetensors").write_bytes(content)
    assert message in refusal(published)


def test_one_file_of_a_directory(published: Path) -> None:
    said = refusal(published / "model.safetensors")
    assert f"Give the directory that it lies in: {published}" in said


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantized by gptq", "a GGUF file of it"),
        ({"quantization_config": {"quant_method": "awq"}}, "quantized by awq", "a GGUF file of it"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantized by fp8", "a GGUF file of it"),
        ({"quantization_config": {"quant_method": "bitsandbytes"}}, "by bitsandbytes", "a GGUF file of it"),
        ({"quantization": {"bits": 4}, "quantization_config": {"bits": 4}}, "by MLX", "a GGUF file of it"),
        ({"text_config": {"model_type": "llama"}, "vision_config": {}}, "text part is of type 'llama'", "text model"),
        ({"model_type": "llava", "vision_config": {"depth": 2}}, "also sees or hears", "text model"),
        ({"model_type": "gpt2"}, "tpid runs Llama 2 to 3.2, SmolLM2, Mistral", "as GGUF would not run either"),
        ({"model_type": "gpt2", "quantization_config": {"quant_method": "awq"}}, "'gpt2'", "would not run either"),
        ({"model_type": None}, "does not say model_type", "right file"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "judges text", "ForCausalLM"),
        ({"hidden_size": 32}, "has shape", "do not belong together"),
    ],
)
def test_settings(changes: dict[str, Any], message: str, hint: str, published: Path) -> None:
    configure(published, **changes)
    said = refusal(published)
    assert message in said
    assert hint in said


def test_a_head_that_is_missing(published: Path) -> None:
    path = published / "model.safetensors"
    state = {name: values for name, values in load_file(path).items() if name != "lm_head.weight"}
    save_file(state, path)
    assert '"tie_word_embeddings": true' in refusal(published)
    configure(published, tie_word_embeddings=True)
    open_source(published).close()


@pytest.mark.parametrize(
    ("suffix", "message"),
    [("q_proj.qweight", "quantized by another tool"), ("q_proj.lora_A.weight", "an adapter"), ("x", "does not know")],
)
def test_tensors_of_other_tools(suffix: str, message: str, published: Path) -> None:
    path = published / "model.safetensors"
    save_file(load_file(path) | {f"model.layers.0.self_attn.{suffix}": torch.ones(2)}, path)
    assert message in refusal(published)


@pytest.mark.parametrize(
    ("names", "message", "hint"),
    [
        (["adapter_config.json", "adapter_model.safetensors"], "an adapter", "Merge it"),
        (["pytorch_model.bin"], "pickle", "as safetensors or GGUF"),
        (["consolidated.00.pth", "params.json"], "its maker's own layout", "for transformers"),
        (["model.safetensors"], "without their config.json", "Download config.json"),
        (["a.txt"], "neither config.json nor a GGUF file", "Give a GGUF file"),
        (["config.json", "pytorch_model.bin"], "pickle", "as safetensors or GGUF"),
        (["config.json", "adapter_config.json"], "an adapter", "Merge it"),
        (["config.json", "weights.npz"], "weights.npz, which tpid does not read", "for transformers"),
        (["config.json"], "its weights are missing", "Download the files of weights"),
        (["config.json", "model-00002-of-00003.safetensors"], "lacks 2 of the 3 files", "Download them too"),
        (["config.json", "m.gguf", "n.gguf"], "2 GGUF models", "m.gguf"),
    ],
)
def test_a_directory(names: list[str], message: str, hint: str, published: Path, tmp_path: Path) -> None:
    directory = tmp_path / "other"
    directory.mkdir()
    for name in names:
        (directory / name).write_bytes((published / name).read_bytes() if name == "config.json" else b"")
    said = refusal(directory)
    assert str(directory) in said
    assert message in said
    assert hint in said


def test_a_directory_above_the_model(published: Path, tmp_path: Path) -> None:
    assert f"such as {published}" in refusal(tmp_path)
    snapshot = tmp_path / "models--x--y" / "snapshots" / "0a1b"
    snapshot.parent.mkdir(parents=True)
    published.rename(snapshot)
    assert f"Give {snapshot}" in refusal(tmp_path / "models--x--y")
    open_source(snapshot).close()


def test_weights_in_several_files_need_no_index(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    (tmp_path / "model.safetensors.index.json").unlink()
    open_source(tmp_path).close()
    next(tmp_path.glob("model-00002-*")).unlink()
    assert "lacks 1 of the" in refusal(tmp_path)


def test_gguf_files_beside_their_settings(tiny_model: Make, write_gguf: Make, published: Path) -> None:
    path = write_gguf(tiny_model("llama"))
    (published / "model.safetensors").unlink()
    path.rename(published / "m.gguf")
    (published / "mmproj-m.gguf").write_bytes(b"GGUF")
    open_source(published).close()


def test_a_part_of_a_gguf_model_that_is_missing(tiny_model: Make, write_gguf: Make, tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"), split_max_tensors=10)
    parts = sorted(path.parent.glob("*-of-*.gguf"))
    parts[-1].unlink()
    said = refusal(parts[0])
    assert parts[-1].name in said
    assert "Download the others into the same directory" in said


def test_a_gguf_file_that_is_cut(tiny_model: Make, write_gguf: Make, tmp_path: Path) -> None:
    path = write_gguf(tiny_model("llama"))
    data = path.read_bytes()
    for name, hint in {"cut.gguf": "go on with it", "cut.gguf.part1of2": "join all pieces"}.items():
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        assert hint in refusal(tmp_path / name)


@pytest.mark.parametrize(
    ("architecture", "kind", "message"),
    [
        ("clip", "mmproj", "mmproj"),
        ("clip", None, "mmproj"),
        ("llama", "adapter", "an adapter"),
        ("llama", "imatrix", "importance matrix"),
        ("llama", None, "no weights"),
        ("gpt2", None, "tpid runs Llama 2 to 3.2, SmolLM2, Mistral"),
    ],
)
def test_gguf_files_of_other_things(architecture: str, kind: str | None, message: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_embedding_length(32)
    writer.add_head_count(1)
    if kind is not None:
        writer.add_type(kind)
    if message != "no weights":
        writer.add_tensor("v.patch_embd.weight", np.zeros((4, 4), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert message in refusal(tmp_path / "m.gguf")
