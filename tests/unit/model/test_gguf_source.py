import math
import os
import struct
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import gguf
import numpy as np
import pytest
import tokenizers
from gguf import GGMLQuantizationType as Ggml

from tpid.errors import ModelError, ModelFileError, UnsupportedModelError
from tpid.model.gguf import source as gguf_source
from tpid.model.gguf.source import GgufSource
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.model.source import TokenizerFiles, WeightSource
from tpid.model.spec import Architecture, LayerSpec, Rope
from tpid.model.weights import Format

Make = Callable[..., Any]

MODELS = [
    pytest.param("llama", {}, id="llama"),
    pytest.param("llama", {"tie_word_embeddings": True}, id="llama-tied"),
    pytest.param("llama", {"attention_bias": True, "mlp_bias": True}, id="llama-biases"),
    pytest.param("llama", {"num_key_value_heads": 4}, id="llama-mha"),
    pytest.param("mistral", {}, id="mistral"),
    pytest.param("qwen2", {"tie_word_embeddings": True}, id="qwen2"),
    pytest.param("qwen3", {}, id="qwen3"),
]


@pytest.mark.parametrize(("kind", "overrides"), MODELS)
def test_gives_the_models_own_weights(
    kind: str, overrides: dict[str, Any], tiny_model: Make, named_state: Make, write_gguf: Make
) -> None:
    model = tiny_model(kind, **overrides)
    expected = named_state(model)
    with GgufSource(write_gguf(model)) as source:
        assert {**matrix_shapes(source.spec), **vector_shapes(source.spec)} == {
            name: values.shape for name, values in expected.items()
        }
        for name, values in expected.items():
            found = source.vector(name) if values.ndim == 1 else source.matrix(name, 0, len(values)).dequantize()
            np.testing.assert_array_equal(found, values, err_msg=name)


def test_reads_the_architectures_numbers(tiny_model: Make, write_gguf: Make) -> None:
    model = tiny_model("qwen3", tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    spec = GgufSource(write_gguf(model)).spec
    assert spec.architecture is Architecture.QWEN3
    assert (spec.hidden_size, spec.n_layers, spec.ffn_size, spec.vocab_size) == (64, 2, 96, 70)
    assert (spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.context_tokens) == (4, 2, 32, 256)
    assert spec.norm_eps == pytest.approx(1e-6)
    assert spec.tied_head
    assert spec.pattern == (LayerSpec(Rope(5e5), qk_norm=True),)


@pytest.mark.parametrize("type", [Ggml.Q4_0, Ggml.Q4_1, Ggml.Q5_0, Ggml.Q8_0, Ggml.F16, Ggml.BF16])
def test_rows_of_interleaved_heads_are_moved_exactly(
    type: Ggml, tiny_model: Make, named_state: Make, write_gguf: Make
) -> None:
    model = tiny_model("llama")
    expected = gguf.quants.quantize(named_state(model)["layers.1.q"], type)
    expected = gguf.quants.dequantize(expected, type)
    source = GgufSource(write_gguf(model, types={"attn_q": type}))
    for start, stop in [(0, 128), (0, 0), (5, 6), (30, 34), (32, 64), (1, 127), (100, 128)]:
        found = source.matrix("layers.1.q", start, stop)
        assert found.shape == (stop - start, 64)
        np.testing.assert_array_equal(found.dequantize(), expected[start:stop])


def test_a_read_takes_the_rows_asked_for(tiny_model: Make, write_gguf: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    source = GgufSource(write_gguf(tiny_model("llama"), types={"blk": Ggml.F16, "token": Ggml.F16}))
    sizes: list[int] = []
    preadv = os.preadv

    def counting(fd: int, buffers: list[memoryview], offset: int) -> int:
        sizes.append(sum(buffer.nbytes for buffer in buffers))
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", counting)
    source.matrix("embed", 3, 5)
    source.matrix("layers.0.q", 40, 70)  # of heads 1 and 2
    assert sizes == [2 * 64 * 2, 64 * 64 * 2]


def test_f32_takes_the_half_that_holds_it(tiny_model: Make, write_gguf: Make) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[95, 3] = 1e6
    source = GgufSource(write_gguf(model))
    assert source.natural_format("layers.0.up") is Format.F16
    assert source.natural_format("layers.1.up") is Format.BF16
    assert source.matrix("layers.1.up", 0, 4).format is Format.BF16


def test_a_tied_head_is_the_embedding(tiny_model: Make, write_gguf: Make) -> None:
    source = GgufSource(write_gguf(tiny_model("llama", tie_word_embeddings=True)))
    assert source.spec.tied_head
    np.testing.assert_array_equal(source.matrix("head", 2, 9).dequantize(), source.matrix("embed", 2, 9).dequantize())


@pytest.mark.parametrize(
    ("metadata", "freqs", "factors"),
    [
        ({}, None, None),
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, None, (4.0,) * 16),
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, None, None),
        ({"llama.rope.scale_linear": 2.0}, None, (2.0,) * 16),
        ({}, np.linspace(1, 8, 16), tuple(np.linspace(1, 8, 16, dtype=np.float32).tolist())),
        ({"llama.rope.scaling.factor": 2.0}, np.full(16, 3.0), (6.0,) * 16),
    ],
)
def test_reads_rope_scaling(
    metadata: dict[str, Any],
    freqs: np.ndarray | None,
    factors: tuple[float, ...] | None,
    tiny_model: Make,
    write_gguf: Make,
) -> None:
    extra = {} if freqs is None else {"rope_freqs.weight": freqs.astype(np.float32)}
    path = write_gguf(tiny_model("llama"), metadata=metadata, extra=extra)
    assert GgufSource(path).spec.ropes[0].factors == factors


def test_reads_a_sliding_window(tiny_model: Make, write_gguf: Make) -> None:
    metadata = {"llama.attention.sliding_window": 32}
    spec = GgufSource(write_gguf(tiny_model("mistral"), metadata=metadata)).spec
    assert [spec.layer(layer).window_tokens for layer in range(2)] == [32, 32]


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"llama.expert_count": 8}, "mixture of experts"),
        ({"llama.rope.scaling.type": "longrope"}, "longrope"),
        ({"llama.rope.dimension_count": 16}, "16 of 32 dimensions"),
        ({"llama.logit_scale": 0.5}, "scale on its logits"),
        ({"llama.attention.causal": False}, "writes none"),
    ],
)
def test_refuses_kinds_that_it_cannot_run(
    metadata: dict[str, Any], message: str, tiny_model: Make, write_gguf: Make
) -> None:
    path = write_gguf(tiny_model("llama"), metadata=metadata)
    with pytest.raises(UnsupportedModelError, match=message):
        GgufSource(path)


@pytest.mark.parametrize(
    ("architecture", "message"),
    [
        ("gpt2", "'gpt2'; tpid runs Llama 2 to 3.2, SmolLM2, Mistral, .*, Gemma 3, "),
        ("llama4", "experts and attention in chunks"),
        ("qwen35", "Gated DeltaNet"),
        ("deepseek2", "latent attention"),
        ("qwen3moe", "mixture of experts"),
        ("olmo2", "width of all heads"),
    ],
)
def test_refuses_other_architectures(architecture: str, message: str, tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", architecture)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    with pytest.raises(UnsupportedModelError, match=message):
        GgufSource(tmp_path / "a.gguf")


def test_names_tensors_that_are_missing_too_many_or_of_another_shape(tiny_model: Make, write_gguf: Make) -> None:
    model = tiny_model("llama")
    with pytest.raises(ModelFileError, match=r"lacks tensor blk\.1\.ffn_up\.weight"):
        GgufSource(write_gguf(model, without=("blk.1.ffn_up.weight",)))
    with pytest.raises(ModelFileError, match=r"lacks tensor token_embd\.weight"):
        GgufSource(write_gguf(model, "b.gguf", without=("token_embd.weight",)))
    extra = {"blk.1.attn_q.bias": np.zeros(128, np.float32)}
    with pytest.raises(UnsupportedModelError, match=r"blk\.1\.attn_q\.bias"):
        GgufSource(write_gguf(model, "c.gguf", extra=extra))
    extra = {"output_norm.weight": np.zeros(32, np.float32)}
    with pytest.raises(ModelFileError, match=r"output_norm\.weight has shape \(32,\)"):
        GgufSource(write_gguf(model, "d.gguf", extra=extra))


def test_names_numbers_that_make_no_sense(tiny_model: Make, write_gguf: Make) -> None:
    model = tiny_model("qwen2")
    model.config.num_key_value_heads = 3
    path = write_gguf(model)
    with pytest.raises(ModelFileError, match="4 heads cannot be divided among 3"):
        GgufSource(path)


def damage(path: Path, name: str, at: int, value: float) -> None:
    """Write an fp16 number into a tensor's bytes."""
    tensor = next(t for t in gguf.GGUFReader(path).tensors if t.name == name)
    with path.open("r+b") as file:
        file.seek(tensor.data_offset + at)
        file.write(struct.pack("<e", value))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("type", [Ggml.Q4_1, Ggml.Q5_0, Ggml.Q5_1, Ggml.Q8_0, Ggml.F16])
def test_names_the_row_of_a_scale_that_is_not_finite(
    type: Ggml, value: float, tiny_model: Make, write_gguf: Make
) -> None:
    path = write_gguf(tiny_model("llama"), types={"ffn_up": type})
    block, size = gguf.GGML_QUANT_SIZES[type]
    damage(path, "blk.1.ffn_up.weight", 7 * 64 // block * size, value)
    source = GgufSource(path)
    source.matrix("layers.1.up", 0, 7)
    with pytest.raises(ModelFileError, match=r"blk\.1\.ffn_up\.weight, row 7:"):
        source.matrix("layers.1.up", 3, 20)


def test_vectors_must_be_finite_and_not_quantized(tiny_model: Make, write_gguf: Make) -> None:
    model = tiny_model("llama")
    path = write_gguf(model, types={"norm": Ggml.F16})
    damage(path, "output_norm.weight", 6, math.nan)
    with pytest.raises(ModelFileError, match=r"output_norm\.weight, row 3:"):
        GgufSource(path).vector("final_norm")
    with pytest.raises(UnsupportedModelError, match="Q8_0"):
        GgufSource(write_gguf(model, "b.gguf", types={"output_norm": Ggml.Q8_0}))


def test_reads_all_parts_of_a_split_model(
    tiny_model: Make, named_state: Make, write_gguf: Make, tmp_path: Path
) -> None:
    model = tiny_model("qwen2")
    write_gguf(model, split_max_tensors=10)
    parts = sorted(tmp_path.glob("a-*.gguf"))
    assert len(parts) == 3
    fingerprints = set()
    for part in parts:  # any of them stands for all
        with GgufSource(part) as source:
            fingerprints.add(source.fingerprint)
            for name, values in named_state(model).items():
                found = source.vector(name) if values.ndim == 1 else source.matrix(name, 0, len(values)).dequantize()
                np.testing.assert_array_equal(found, values, err_msg=name)
    assert len(fingerprints) == 1


def test_names_parts_that_are_missing_or_misnamed(tiny_model: Make, write_gguf: Make, tmp_path: Path) -> None:
    write_gguf(tiny_model("qwen2"), split_max_tensors=10)
    first, second, third = sorted(tmp_path.glob("a-*.gguf"))
    renamed = third.rename(tmp_path / "renamed.gguf")
    with pytest.raises(ModelFileError, match="00003-of-00003"):
        GgufSource(first)
    with pytest.raises(UnsupportedModelError, match="one of 3 parts"):
        GgufSource(renamed)
    third.write_bytes(second.read_bytes())
    with pytest.raises(ModelFileError, match="part 2 of 3 by its metadata"):
        GgufSource(first)


def test_the_fingerprint_follows_the_file(tiny_model: Make, write_gguf: Make) -> None:
    path = write_gguf(tiny_model("llama"))
    assert GgufSource(path).published_bytes == path.stat().st_size
    before = GgufSource(path).fingerprint
    assert GgufSource(path).fingerprint == before
    os.utime(path, ns=(0, 1))
    assert GgufSource(path).fingerprint != before


def test_a_file_cut_after_opening_is_an_error(tiny_model: Make, write_gguf: Make) -> None:
    path = write_gguf(tiny_model("llama"))
    source = GgufSource(path)
    os.truncate(path, path.stat().st_size // 2)
    names = [*matrix_shapes(source.spec)][::-1]
    with pytest.raises(ModelFileError, match="too early"):
        [source.matrix(name, 0, 1) for name in names]


def test_closing_and_failing_close_the_file(tiny_model: Make, write_gguf: Make) -> None:
    model = tiny_model("llama")
    good, bad = (
        write_gguf(model),
        write_gguf(model, "b.gguf", without=("output_norm.weight",)),
    )
    before = len(os.listdir("/proc/self/fd"))
    source = GgufSource(good)
    assert len(os.listdir("/proc/self/fd")) == before + 1
    source.close()
    source.close()
    with pytest.raises(ModelFileError):
        GgufSource(bad)
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_and_names_that_are_not_there_are_the_callers_mistake(tiny_model: Make, write_gguf: Make) -> None:
    source: WeightSource = GgufSource(write_gguf(tiny_model("llama")))
    with pytest.raises(ValueError, match="rows 0…71 of embed with 70 rows"):
        source.matrix("embed", 0, 71)
    with pytest.raises(KeyError):
        source.vector("layers.0.q_norm")


def test_the_tokenizer_comes_from_the_metadata(
    tiny_model: Make, write_gguf: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = GgufSource(write_gguf(tiny_model("llama"), metadata={"tokenizer.ggml.model": "gpt2"}))
    files = TokenizerFiles(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str().encode(), None, None, None, (2,))

    def convert(metadata: Any) -> TokenizerFiles:
        assert metadata["tokenizer.ggml.model"] == "gpt2"
        return files

    monkeypatch.setattr(gguf_source, "tokenizer_files_from_gguf", convert)
    assert source.tokenizer() is files


def test_any_header_gives_a_source_or_one_error(tiny_model: Make, write_gguf: Make) -> None:
    path = write_gguf(tiny_model("llama"))
    data = path.read_bytes()
    header_bytes = min(t.data_offset for t in gguf.GGUFReader(path).tensors)
    random = Random(3)
    opened = 0
    for _ in range(600):
        flipped = bytearray(data)
        flipped[random.randrange(header_bytes)] = random.choice((0, 1, 0x80, 0xFF, random.randrange(256)))
        path.write_bytes(flipped)
        try:
            with GgufSource(path) as source:
                for name in vector_shapes(source.spec):
                    source.vector(name)
                opened += 1
        except ModelError:
            continue
    assert 0 < opened < 600
