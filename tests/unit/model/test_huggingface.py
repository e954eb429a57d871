import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MistralConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from tpid.errors import ModelError, ModelFileError, UnsupportedModelError
from tpid.model import huggingface
from tpid.model.huggingface import OWN_HEAD_NOTICE, HuggingFaceSource
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.model.source import TokenizerFiles, WeightSource
from tpid.model.spec import Architecture, LayerSpec, Rope
from tpid.model.weights import Format

Make = Callable[..., Any]

MODELS = [
    pytest.param({"kind": "llama"}, id="llama"),
    pytest.param({"kind": "llama", "tie_word_embeddings": True}, id="llama-tied"),
    pytest.param({"kind": "llama", "attention_bias": True, "mlp_bias": True}, id="llama-biases"),
    pytest.param({"kind": "mistral"}, id="mistral"),
    pytest.param({"kind": "qwen2", "tie_word_embeddings": True}, id="qwen2"),
    pytest.param({"kind": "qwen3"}, id="qwen3"),
    pytest.param({"kind": "qwen3", "attention_bias": True}, id="qwen3-biases"),
]
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
LLAMA3_THETA = LLAMA3 | {"rope_theta": 5e5}


@pytest.fixture
def published(tiny_model: Make, tmp_path: Path) -> Path:
    tiny_model("llama").save_pretrained(tmp_path)
    return tmp_path


def change_config(directory: Path, changes: dict[str, Any], without: tuple[str, ...] = ()) -> None:
    path = directory / "config.json"
    config = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in without}))


@pytest.mark.parametrize("shard_size", ["1GB", "40KB"])
@pytest.mark.parametrize("options", MODELS)
def test_gives_the_models_own_weights(
    options: dict[str, Any], shard_size: str, tiny_model: Make, named_state: Make, tmp_path: Path
) -> None:
    model = tiny_model(**options)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard_size == "40KB")
    expected = named_state(model)
    with HuggingFaceSource(tmp_path) as source:
        assert {**matrix_shapes(source.spec), **vector_shapes(source.spec)} == {
            name: values.shape for name, values in expected.items()
        }
        for name, values in expected.items():
            found = source.vector(name) if values.ndim == 1 else source.matrix(name, 0, len(values)).dequantize()
            np.testing.assert_array_equal(found, values, err_msg=name)


@pytest.mark.parametrize(("dtype", "format"), [(torch.float16, Format.F16), (torch.bfloat16, Format.BF16)])
def test_halves_stay_as_published(
    dtype: torch.dtype, format: Format, tiny_model: Make, named_state: Make, tmp_path: Path
) -> None:
    model = tiny_model("llama").to(dtype)
    model.save_pretrained(tmp_path)
    expected = named_state(model)
    source = HuggingFaceSource(tmp_path)
    matrix = source.matrix("layers.1.down", 5, 20)
    assert matrix.format is source.natural_format("layers.1.down") is format
    np.testing.assert_array_equal(matrix.dequantize(), expected["layers.1.down"][5:20])
    np.testing.assert_array_equal(source.vector("final_norm"), expected["final_norm"])


def test_f32_takes_the_half_that_holds_it(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model("llama")
    state = {name: values.data for name, values in model.named_parameters()}
    state["model.layers.0.mlp.up_proj.weight"][:] = state["model.layers.0.mlp.up_proj.weight"].bfloat16() * 2.0**-20
    state["model.layers.1.mlp.up_proj.weight"][95, 3] = -1e6
    state["model.layers.1.mlp.down_proj.weight"] /= 3
    model.save_pretrained(tmp_path)
    source = HuggingFaceSource(tmp_path)
    for name, format in {
        "layers.0.gate": Format.F16,
        "layers.0.up": Format.BF16,  # f16 would have subnormals of them
        "layers.1.up": Format.BF16,
        "layers.1.down": Format.F16,
    }.items():
        assert source.natural_format(name) is format, name
    np.testing.assert_array_equal(
        source.matrix("layers.0.up", 0, 96).dequantize(), state["model.layers.0.mlp.up_proj.weight"].numpy()
    )
    assert source.notes == [
        "Its fp32 weights do not fit 16 bits exactly: matrices were rounded, 1 to f16 and 1 to bf16."
    ]


def test_a_tied_head_is_the_embedding_even_if_stored(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"].clone()}, path)
    source = HuggingFaceSource(tmp_path)
    assert source.spec.tied_head
    np.testing.assert_array_equal(source.matrix("head", 2, 9).dequantize(), source.matrix("embed", 2, 9).dequantize())


@pytest.mark.parametrize("row", [0, 69])
def test_a_head_with_other_values_than_the_embedding_is_used(row: int, tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    head = state["model.embed_tokens.weight"].clone()
    head[row, 5] = 2.0
    save_file(state | {"lm_head.weight": head}, path, {"format": "pt"})
    judge = AutoModelForCausalLM.from_pretrained(tmp_path)
    source = HuggingFaceSource(tmp_path)
    assert not source.spec.tied_head
    assert source.notes == [OWN_HEAD_NOTICE]
    np.testing.assert_array_equal(source.matrix("head", 0, 70).dequantize(), judge.lm_head.weight.detach().numpy())
    embed = judge.get_input_embeddings().weight.detach().numpy()
    np.testing.assert_array_equal(source.matrix("embed", 0, 70).dequantize(), embed)


def test_a_tied_head_in_another_dtype_is_tied_where_its_values_are(tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model("llama", tie_word_embeddings=True)
    model.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    state = load_file(path)
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"].half()}, path)
    assert HuggingFaceSource(tmp_path).spec.tied_head
    save_file(state | {"lm_head.weight": state["model.embed_tokens.weight"].bfloat16()}, path)
    assert not HuggingFaceSource(tmp_path).spec.tied_head


def test_reads_the_architectures_numbers(published: Path) -> None:
    spec = HuggingFaceSource(published).spec
    assert spec.architecture is Architecture.LLAMA
    assert (spec.hidden_size, spec.n_layers, spec.ffn_size, spec.vocab_size) == (64, 2, 96, 70)
    assert (spec.n_heads, spec.n_kv_heads, spec.head_dim, spec.context_tokens) == (4, 2, 32, 256)
    assert (spec.norm_eps, spec.tied_head, spec.pattern) == (1e-6, False, (LayerSpec(Rope(10_000.0)),))


def test_a_head_takes_its_part_of_the_hidden_size(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model("llama", head_dim=None).save_pretrained(tmp_path)
    change_config(tmp_path, {}, without=("head_dim",))
    assert HuggingFaceSource(tmp_path).spec.head_dim == 16


@pytest.mark.parametrize(
    ("changes", "theta", "scaled"),
    [
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, 5e5, False),
        ({"rope_theta": 5e5}, 5e5, False),
        ({"rope_theta": 5e5, "rope_scaling": None}, 5e5, False),
        ({"rope_parameters": LLAMA3_THETA}, 5e5, True),
        ({"rope_theta": 5e5, "rope_scaling": LLAMA3}, 5e5, True),
    ],
)
def test_reads_rope_of_old_and_new_configs(
    changes: dict[str, Any], theta: float, scaled: bool, published: Path
) -> None:
    change_config(published, {}, without=("rope_parameters",))
    change_config(published, changes)
    (rope,) = HuggingFaceSource(published).spec.ropes
    assert rope.theta == theta
    assert (rope.factors is not None) == scaled


@pytest.mark.parametrize(
    "parameters", [LLAMA3_THETA, {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}], ids=["llama3", "linear"]
)
def test_frequencies_are_those_of_transformers(parameters: dict[str, Any], tiny_model: Make, tmp_path: Path) -> None:
    model = tiny_model("llama", head_dim=128, rope_parameters=parameters)
    model.save_pretrained(tmp_path)
    expected, attention_factor = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](model.config, torch.device("cpu"))
    assert attention_factor == 1.0
    (rope,) = HuggingFaceSource(tmp_path).spec.ropes
    assert rope.factors is not None
    found = [rope.theta ** (-2 * i / 128) / factor for i, factor in enumerate(rope.factors)]
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-5)
    assert len({round(factor, 3) for factor in rope.factors}) > 2 or parameters["rope_type"] == "linear"


@pytest.mark.parametrize(
    ("options", "windows"),
    [
        ({"kind": "mistral", "sliding_window": 32}, [32, 32]),
        ({"kind": "mistral", "sliding_window": None}, [None, None]),
        ({"kind": "qwen2", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 1}, [None, 32]),
        ({"kind": "qwen2", "use_sliding_window": False, "sliding_window": 32, "max_window_layers": 1}, [None, None]),
        ({"kind": "qwen3", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 0}, [32, 32]),
        ({"kind": "qwen3", "use_sliding_window": True, "sliding_window": 32, "max_window_layers": 2}, [None, None]),
    ],
)
@pytest.mark.parametrize("without", [(), ("layer_types",)])
def test_reads_sliding_windows(
    options: dict[str, Any],
    windows: list[int | None],
    without: tuple[str, ...],
    tiny_model: Make,
    tmp_path: Path,
) -> None:
    tiny_model(**options).save_pretrained(tmp_path)
    change_config(tmp_path, {}, without)
    spec = HuggingFaceSource(tmp_path).spec
    assert [spec.layer(layer).window_tokens for layer in range(2)] == windows


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2'; tpid runs Llama"),
        ({"model_type": "mixtral"}, "'mixtral', which has a mixture of experts"),
        ({"model_type": "qwen3_next"}, "Gated DeltaNet"),
        ({"model_type": "qwen3_5", "text_config": {"model_type": "qwen3_5_text"}}, "Gated DeltaNet"),
        ({"model_type": "llama4", "text_config": {"model_type": "llama4_text"}}, "attention in chunks"),
        ({"model_type": "deepseek_v3"}, "latent attention"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "sees what comes later"),
        ({"hidden_act": "gelu"}, "'gelu'"),
        ({"num_local_experts": 8}, "mixture of experts"),
        ({"quantization_config": {"quant_method": "gptq"}}, "weights quantized by gptq"),
        ({"partial_rotary_factor": 0.5}, "a part of each head"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "a part of each head"),
        ({"rope_parameters": {"rope_type": "dynamic", "factor": 4.0}}, "dynamic"),
        ({"rope_parameters": {"full_attention": {"rope_type": "default"}}}, "several kinds"),
    ],
)
def test_refuses_kinds_that_it_cannot_run(changes: dict[str, Any], message: str, published: Path) -> None:
    change_config(published, changes)
    with pytest.raises(UnsupportedModelError, match=message):
        HuggingFaceSource(published)


def test_a_window_that_is_not_said_is_transformers_default(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model("mistral").save_pretrained(tmp_path)
    change_config(tmp_path, {}, without=("sliding_window",))
    assert HuggingFaceSource(tmp_path).spec.layer(0).window_tokens == MistralConfig().sliding_window == 4096


def test_reads_mixed_kinds_of_attention(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model("qwen2", use_sliding_window=True, sliding_window=32, max_window_layers=1).save_pretrained(tmp_path)
    change_config(tmp_path, {"layer_types": ["sliding_attention", "full_attention"]})
    spec = HuggingFaceSource(tmp_path).spec
    assert [spec.layer(layer).window_tokens for layer in range(2)] == [32, None]
    change_config(tmp_path, {"layer_types": ["sliding_attention", "linear_attention"]})
    with pytest.raises(UnsupportedModelError, match="of kind 'linear_attention'"):
        HuggingFaceSource(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 0}, "hidden_size = 0"),
        ({"hidden_size": 1 << 40}, "hidden_size = 1099511627776"),
        ({"hidden_size": True}, "hidden_size = True"),
        ({"hidden_size": None}, "does not say hidden_size"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers = 2.0"),
        ({"num_hidden_layers": [2]}, "num_hidden_layers = a list"),
        ({"num_key_value_heads": 3}, "4 heads cannot be divided among 3"),
        ({"head_dim": 31}, "31 dimensions is odd"),
        ({"head_dim": None, "hidden_size": 66}, "66 dimensions cannot be divided among 4"),
        ({"rms_norm_eps": -1e-6}, "rms_norm_eps"),
        ({"rms_norm_eps": 10**400}, "rms_norm_eps"),
        ({"model_type": 7}, "model_type = 7"),
        ({"tie_word_embeddings": "no"}, "tie_word_embeddings"),
        ({"rope_parameters": [1]}, "not an object"),
        ({"rope_parameters": {"rope_type": "linear", "factor": 0}}, "factor = 0"),
        ({"rope_parameters": LLAMA3_THETA | {"low_freq_factor": 4.0}}, "not below high_freq_factor"),
        ({"rope_parameters": LLAMA3_THETA | {"original_max_position_embeddings": 0}}, "original_max_position"),
        ({"num_hidden_layers": 3}, r"lacks 9 tensors: model\.layers\.2\."),
        ({"vocab_size": 71}, r"embed_tokens\.weight has shape \(70, 64\)"),
        ({"intermediate_size": 95}, r"its model needs \(95, 64\)"),
    ],
)
def test_names_numbers_that_make_no_sense(changes: dict[str, Any], message: str, published: Path) -> None:
    change_config(published, changes)
    with pytest.raises(ModelFileError, match=message):
        HuggingFaceSource(published)


def test_refuses_tensors_that_it_would_have_to_leave_out(published: Path) -> None:
    path = published / "model.safetensors"
    harmless = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
    state = load_file(path) | harmless
    save_file(state, path)
    HuggingFaceSource(published).close()
    save_file(state | {"model.layers.0.self_attn.q_proj.bias": torch.ones(128)}, path)
    with pytest.raises(UnsupportedModelError, match=r"q_proj\.bias"):
        HuggingFaceSource(published)


def test_names_a_dtype_that_it_cannot_run(published: Path) -> None:
    path = published / "model.safetensors"
    state = load_file(path)
    save_file(state | {"model.norm.weight": state["model.norm.weight"].to(torch.float8_e4m3fn)}, path)
    with pytest.raises(UnsupportedModelError, match=r"model\.norm\.weight is F8_E4M3"):
        HuggingFaceSource(published)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_names_the_row_of_a_weight_that_is_not_finite(
    dtype: torch.dtype, value: float, tiny_model: Make, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    model.model.layers[1].mlp.up_proj.weight.data[7, 3] = value
    model.model.norm.weight.data[5] = value
    model.to(dtype).save_pretrained(tmp_path)
    source = HuggingFaceSource(tmp_path)
    with pytest.raises(ModelFileError, match=r"layers\.1\.mlp\.up_proj\.weight, row 7:"):
        source.matrix("layers.1.up", 3, 20)
    with pytest.raises(ModelFileError, match=r"model\.norm\.weight, row 5:"):
        source.vector("final_norm")


def test_names_what_a_directory_lacks(published: Path) -> None:
    (published / "model.safetensors").unlink()
    with pytest.raises(UnsupportedModelError, match=r"neither model\.safetensors nor .* its weights are missing"):
        HuggingFaceSource(published)
    (published / "config.json").unlink()
    with pytest.raises(ModelFileError, match=r"config\.json cannot be opened"):
        HuggingFaceSource(published)


@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({}, "no weight_map"),
        ({"weight_map": {}}, "no weight_map"),
        ({"weight_map": {"a": "../model.safetensors"}}, "not a safetensors file beside it"),
        ({"weight_map": {"a": "/etc/passwd"}}, "not a safetensors file beside it"),
        ({"weight_map": {"a": 4}}, "not a safetensors file beside it"),
        ({"weight_map": {"a": "a" * 300 + ".safetensors"}}, "not a safetensors file beside it"),
        ({"weight_map": {str(i): f"{i}.safetensors" for i in range(600)}}, "names 600 files"),
        ({"weight_map": {"a": "absent.safetensors"}}, r"lacks 1 of the 1 files of weights: absent\.safetensors"),
    ],
)
def test_refuses_an_unsound_index(index: dict[str, Any], message: str, published: Path) -> None:
    (published / "model.safetensors").rename(published / "other.safetensors")
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match=message):
        HuggingFaceSource(published)


def test_refuses_a_tensor_in_two_shards(published: Path) -> None:
    data = (published / "model.safetensors").read_bytes()
    (published / "model.safetensors").unlink()
    for name in ("one", "two"):
        (published / f"{name}.safetensors").write_bytes(data)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}
    (published / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelFileError, match="both hold tensor"):
        HuggingFaceSource(published)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_the_fingerprint_follows_the_files(name: str, published: Path) -> None:
    shards = sum(path.stat().st_size for path in published.glob("*.safetensors"))
    assert HuggingFaceSource(published).published_bytes == shards
    before = HuggingFaceSource(published).fingerprint
    assert HuggingFaceSource(published).fingerprint == before
    os.utime(published / name, ns=(0, 1))
    assert HuggingFaceSource(published).fingerprint != before


def test_closing_and_failing_close_the_files(tiny_model: Make, tmp_path: Path) -> None:
    tiny_model("llama").save_pretrained(tmp_path, max_shard_size="40KB")
    before = len(os.listdir("/proc/self/fd"))
    source = HuggingFaceSource(tmp_path)
    assert len(os.listdir("/proc/self/fd")) > before
    source.close()
    source.close()
    assert len(os.listdir("/proc/self/fd")) == before
    change_config(tmp_path, {"vocab_size": 71})
    with pytest.raises(ModelFileError):
        HuggingFaceSource(tmp_path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_rows_and_names_that_are_not_there_are_the_callers_mistake(published: Path) -> None:
    source: WeightSource = HuggingFaceSource(published)
    with pytest.raises(ValueError, match="rows 9…8 of embed"):
        source.matrix("embed", 9, 8)
    with pytest.raises(KeyError):
        source.vector("layers.0.q_norm")


def test_the_tokenizer_comes_from_the_directory(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = TokenizerFiles(tokenizers.Tokenizer(tokenizers.models.BPE()).to_str().encode(), None, None, None, (2,))
    monkeypatch.setattr(huggingface, "tokenizer_files_from_directory", {published: files}.__getitem__)
    assert HuggingFaceSource(published).tokenizer() is files


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_any_bytes_give_a_source_or_one_error(name: str, published: Path) -> None:
    path = published / name
    data = path.read_bytes()
    end = len(data) if name == "config.json" else 8 + int.from_bytes(data[:8], "little")
    random = Random(4)
    opened = 0
    for _ in range(400):
        changed = bytearray(data)
        changed[random.randrange(end)] = random.randrange(256)
        path.write_bytes(changed if random.random() < 0.7 else changed[: random.randrange(end)])
        try:
            HuggingFaceSource(published).close()
            opened += 1
        except ModelError:
            continue
    assert opened < 400
