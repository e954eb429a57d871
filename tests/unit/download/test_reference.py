import pytest

from tpid.download.reference import HubModel, WebFile, parse_reference
from tpid.errors import RequestError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("hf.co/Qwen/Qwen3-8B-GGUF", HubModel("Qwen/Qwen3-8B-GGUF")),
        ("hf.co/Qwen/Qwen3-8B-GGUF:Q4_K_M", HubModel("Qwen/Qwen3-8B-GGUF", "Q4_K_M")),
        ("HF.co/Qwen/Qwen3-8B-GGUF/", HubModel("Qwen/Qwen3-8B-GGUF")),
        ("https://huggingface.co/a/b:q8_0", HubModel("a/b", "q8_0")),
        ("a/b.c_d:x.gguf", HubModel("a/b.c_d", "x.gguf")),
        ("https://hf.co/a/b/blob/main/deep/x%20y.gguf", HubModel("a/b", path="deep/x y.gguf")),
        ("hf.co/a/b/resolve/v1/x.GGUF?download=true", HubModel("a/b", revision="v1", path="x.GGUF")),
        ("https://example.com/x.gguf?key=1", WebFile("https://example.com/x.gguf?key=1")),
        ("http://nas.local:8080/x.gguf", WebFile("http://nas.local:8080/x.gguf")),
        (f"https://e.com/x.gguf#sha256={'a' * 64}", WebFile("https://e.com/x.gguf", "a" * 64)),
    ],
)
def test_what_names_mean(text: str, expected: HubModel | WebFile) -> None:
    assert parse_reference(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("file:///x.gguf", "https:///x.gguf", "https://e.com/", "https://e.com/x.zip", "hf.co/a", "hf.co/a/b/c/d"),
        *("https://user:secret@e.com/x.gguf", "https://e.com:99999/x.gguf", "../x", "a/b:", "a/b:c d", "x/" * 2000),
        *("https://hf.co/a/b/tree/main", "ftp://e.com/x.gguf", "https://[::1/x.gguf", ""),
    ],
)
def test_what_cannot_be_fetched_is_refused_with_what_can(text: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_reference(text)
    assert caught.value.hint is not None
    assert len(caught.value.message) < 300


def test_a_reference_is_told_as_it_can_be_typed() -> None:
    for text in ("hf.co/a/b", "hf.co/a/b:Q4_0", "https://e.com/x.gguf"):
        assert str(parse_reference(text)) == text
        assert parse_reference(str(parse_reference(text))) == parse_reference(text)
