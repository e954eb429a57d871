"""Types without a format of their own, judged by the gguf package's own numbers."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Ggml
from numpy.typing import NDArray

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.gguf.blocks import NATURAL_FORMAT
from tpid.model.gguf.rounded import ROUNDED_FORMAT, Roundings, dequantize_rounded, round_values
from tpid.model.gguf.source import GgufSource
from tpid.model.gguf.types import GgmlType
from tpid.model.weights import F32, Format

Make = Callable[..., Any]
ROWS, COLUMNS = 8, 1024
# Where the fp16 of a block lies, and the part of their size that its weights may lose.
FACTOR = {"IQ1_S": 0, "IQ2_XXS": 0, "IQ2_XS": 0, "IQ2_S": 0, "IQ3_XXS": 0, "IQ3_S": 0, "TQ1_0": 52, "TQ2_0": 64}
LOSS = {
    "IQ1_S": 0.001, "IQ1_M": 0.06, "IQ2_XXS": 0.03, "IQ2_XS": 0.06, "IQ2_S": 0.06, "IQ3_XXS": 0.03, "IQ3_S": 0.001,
    "TQ1_0": 0, "TQ2_0": 0, "NVFP4": 0.007,
}  # fmt: skip


def random_rows(type: GgmlType) -> NDArray[np.uint8]:
    """[ROWS, row_bytes]: any bits as quants and small scales, a sane factor in each block."""
    random = np.random.default_rng(type)
    blocks = random.integers(0, 256, (ROWS * COLUMNS // type.block_weights, type.block_bytes), np.uint8)
    factor = np.float16(0.01)
    if type.name in FACTOR:
        blocks[:, FACTOR[type.name] :][:, :2] = np.array([factor]).view(np.uint8)
    elif type is GgmlType.IQ1_M:  # a quarter of it in the upper bits of each of the last four words
        words = np.ascontiguousarray(blocks[:, 48:]).view("<u2")
        quarters = int(factor.view(np.uint16)) >> np.array([0, 4, 8, 12]) & 15
        blocks[:, 48:] = (words & 0xFFF | quarters << 12).astype("<u2").view(np.uint8)
    else:  # NVFP4: a factor of 8 bits for 16 weights
        blocks[:, :4] = random.integers(40, 60, (len(blocks), 4))
    return blocks.reshape(ROWS, -1)


def loss(found: F32, expected: F32) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def test_every_type_that_gguf_can_dequantize_is_read() -> None:
    known = {type.name for type in (*NATURAL_FORMAT, *ROUNDED_FORMAT)}
    assert {type.name for type in gguf.quants._type_traits} <= known


@pytest.mark.parametrize("type", ROUNDED_FORMAT)
def test_values_are_ggufs_and_little_is_lost(type: GgmlType) -> None:
    raw = random_rows(type)
    expected = gguf.dequantize(raw, Ggml(type)).astype(np.float32)
    values = dequantize_rounded(type, raw)
    np.testing.assert_array_equal(values, expected)
    matrix = round_values(type, values)
    assert matrix.format is ROUNDED_FORMAT[type]
    assert loss(matrix.dequantize(), expected) <= LOSS[type.name]


@pytest.mark.parametrize("type", ROUNDED_FORMAT)
def test_no_rows_give_no_rows(type: GgmlType) -> None:
    values = dequantize_rounded(type, random_rows(type)[:0])
    assert round_values(type, values).shape == values.shape == (0, COLUMNS)


def test_a_note_names_loss_and_growth() -> None:
    values, roundings = dequantize_rounded(GgmlType.IQ2_XXS, random_rows(GgmlType.IQ2_XXS)), Roundings()
    assert roundings.notes() == []
    for part in (values[:3], values[3:]):
        roundings.add(GgmlType.IQ2_XXS, part, round_values(GgmlType.IQ2_XXS, part))
    part = loss(round_values(GgmlType.IQ2_XXS, values).dequantize(), values)
    assert roundings.notes() == [
        f"A pack has no format for IQ2_XXS: its matrices became w4, rounded by {100 * part:.2g} % of their size (root "
        "mean square), 2.4 times as large. Files of Q2_K to Q6_K, IQ4_XS or MXFP4 keep their own bits."
    ]


@pytest.fixture
def source(tiny_model: Make, write_gguf: Make) -> GgufSource:
    model = tiny_model("llama", hidden_size=256, intermediate_size=256)
    path: Path = write_gguf(model, types={"ffn_up": Ggml.TQ2_0, "attn_q": Ggml.TQ1_0})
    return GgufSource(path)


def test_a_file_is_read_and_noted(source: GgufSource) -> None:
    (file, _), *_ = source._model.parts
    tensors = {tensor.name: tensor for tensor in gguf.GGUFReader(file.path).tensors}
    for name, published in (("up", "ffn_up"), ("q", "attn_q")):
        assert source.natural_format(f"layers.1.{name}") is Format.W4
        tensor = tensors[f"blk.1.{published}.weight"]
        expected = gguf.dequantize(tensor.data, tensor.tensor_type)
        found = source.matrix(f"layers.1.{name}", 0, len(expected)).dequantize()
        if name == "q":  # interleaved in the file
            found = found.reshape(-1, 2, 16, 256).transpose(0, 2, 1, 3).reshape(found.shape)
        np.testing.assert_array_equal(found, expected)
    notes = source.notes
    assert len(notes) == 2
    assert all("became w4, without loss" in note for note in notes)


@pytest.mark.parametrize(
    ("bad", "error", "sentence"),
    [
        (np.nan, ModelFileError, "row 5: a value is not a finite number"),
        (1e30, UnsupportedModelError, "beyond what w4 can hold"),
    ],
)
def test_weights_that_cannot_be_held_are_refused(
    bad: float, error: type[Exception], sentence: str, source: GgufSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.ones((8, 256), np.float32)
    values[5, 7] = bad
    monkeypatch.setattr("tpid.model.gguf.source.dequantize_rounded", lambda *_: values)
    with pytest.raises(error, match=sentence):
        source.matrix("layers.0.up", 0, 8)
