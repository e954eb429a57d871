import pytest

from tpid.download.choice import Listed, choose, part_names, quant_of
from tpid.errors import PullError

REPO = "hf.co/a/b"


def listing(*paths: str) -> list[Listed]:
    return [Listed(path, 10, None) for path in paths]


def chosen(wish: str | None, *paths: str) -> list[str]:
    return [file.path for file in choose(listing(*paths), REPO, wish).files]


@pytest.mark.parametrize(
    ("path", "quant"),
    [
        ("Llama-3.2-1B-Instruct-Q4_K_M.gguf", "Q4_K_M"),
        ("qwen2.5-0.5b-instruct-q8_0.gguf", "Q8_0"),
        ("model.IQ4_XS.gguf", "IQ4_XS"),
        ("m-UD-Q4_K_XL.gguf", "UD-Q4_K_XL"),
        ("m-F16.gguf", "F16"),
        ("BF16/m-00001-of-00002.gguf", "BF16"),
        ("m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M"),
        ("model.gguf", None),
    ],
)
def test_the_quantization_is_in_the_name(path: str, quant: str | None) -> None:
    assert quant_of(path) == quant


def test_without_a_wish_the_usual_one_comes() -> None:
    paths = ("m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q2_K.gguf", "mmproj-m-f16.gguf", "m.imatrix.gguf", "README.md")
    assert chosen(None, *paths) == ["m-Q4_K_M.gguf"]
    assert chosen(None, "m-Q8_0.gguf", "m-F16.gguf") == ["m-Q8_0.gguf"]
    assert chosen(None, "m.gguf") == ["m.gguf"]


def test_a_wish_is_a_quantization_or_a_file() -> None:
    paths = ("m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-UD-Q4_K_M.gguf", "Q4_0/m-Q4_0.gguf")
    assert chosen("q4_k_m", *paths) == ["m-Q4_K_M.gguf"]
    assert chosen("UD-Q4_K_M", *paths) == ["m-UD-Q4_K_M.gguf"]
    assert chosen("m-q4_0.gguf", *paths) == ["Q4_0/m-Q4_0.gguf"]


def test_all_parts_come_and_a_missing_one_is_named() -> None:
    parts = [f"Q8_0/m-Q8_0-{number:05d}-of-00003.gguf" for number in (1, 2, 3)]
    assert chosen("Q8_0", *reversed(parts)) == parts
    with pytest.raises(PullError, match=r"lacks Q8_0/m-Q8_0-00002-of-00003\.gguf"):
        chosen("Q8_0", parts[0], parts[2])


def test_a_wrong_wish_lists_what_there_is() -> None:
    with pytest.raises(PullError, match=r"has no Q4_K\.") as caught:
        chosen("Q4_K", "m-Q4_K_M.gguf", "m-Q8_0.gguf", "odd.gguf")
    assert caught.value.hint == "It has Q4_K_M, Q8_0, odd.gguf."
    many = [f"m{number}.gguf" for number in range(100)]
    with pytest.raises(PullError) as caught:
        chosen("Q4_0", *many)
    assert caught.value.hint is not None
    assert caught.value.hint.endswith("and 76 more.")


def test_a_repository_without_gguf_comes_as_safetensors() -> None:
    needed = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
    needed += ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json"]
    others = ["README.md", "pytorch_model.bin", "onnx/model.onnx", "consolidated.safetensors", "x/config.json"]
    assert sorted(chosen(None, *needed, *others)) == sorted(needed)
    with pytest.raises(PullError, match="no GGUF files"):
        chosen("Q4_0", *needed)
    for paths in (["README.md"], ["config.json", "pytorch_model.bin"], ["model.safetensors"]):
        with pytest.raises(PullError, match="neither GGUF files nor safetensors"):
            chosen(None, *paths)


def test_parts_by_the_name_of_one() -> None:
    assert part_names("m-00002-of-00002.gguf") == ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    assert part_names("m.gguf") == ["m.gguf"]
    assert part_names("m-00003-of-00002.gguf") == ["m-00003-of-00002.gguf"]
    assert part_names("m-00001-of-99999.gguf") == ["m-00001-of-99999.gguf"]
