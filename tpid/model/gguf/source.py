"""A GGUF file as a source of weights."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.finite import require_finite, require_finite_values
from tpid.model.gguf.architecture import read_spec
from tpid.model.gguf.blocks import NATURAL_FORMAT, U8, blocks_to_matrix, dequantize_blocks
from tpid.model.gguf.container import GgufTensor
from tpid.model.gguf.parts import GgufModel, open_gguf
from tpid.model.gguf.rounded import ROUNDED_FORMAT, Roundings, dequantize_rounded, round_values
from tpid.model.gguf.tokenizer import tokenizer_files_from_gguf
from tpid.model.gguf.types import GgmlType
from tpid.model.halffit import HalfFits
from tpid.model.inventory import Shape, check_inventory, matrix_shapes, vector_shapes
from tpid.model.limits import MAX_HEAD_DIM, check_spec
from tpid.model.source import TokenizerFiles
from tpid.model.spec import Architecture, ModelSpec
from tpid.model.token_rows import with_rows_only
from tpid.model.weightfile import fingerprint
from tpid.model.weights import F32, Format, Matrix

_ROPE_FREQS = "rope_freqs.weight"
_VECTOR_TYPES = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
_GLOBAL = {"embed": "token_embd.weight", "head": "output.weight", "final_norm": "output_norm.weight"}
_IN_LAYER = {
    "q": "attn_q.weight",
    "k": "attn_k.weight",
    "v": "attn_v.weight",
    "o": "attn_output.weight",
    "gate": "ffn_gate.weight",
    "up": "ffn_up.weight",
    "down": "ffn_down.weight",
    "attn_norm": "attn_norm.weight",
    "ffn_norm": "ffn_norm.weight",
    "q_bias": "attn_q.bias",
    "k_bias": "attn_k.bias",
    "v_bias": "attn_v.bias",
    "o_bias": "attn_output.bias",
    "gate_bias": "ffn_gate.bias",
    "up_bias": "ffn_up.bias",
    "down_bias": "ffn_down.bias",
    "q_norm": "attn_q_norm.weight",
    "k_norm": "attn_k_norm.weight",
}
_ROTATED = ("q", "k", "q_bias", "k_bias")


class GgufSource:
    """A WeightSource over one GGUF file or a split one. Closes itself as a context manager."""

    def __init__(self, path: Path) -> None:
        """Reads headers only. Raises ModelFileError and UnsupportedModelError."""
        with ExitStack() as stack:
            self._model = open_gguf(path, stack)
            self.spec = _checked_spec(str(path), self._model)
            self.fingerprint = fingerprint(self._model.parts)
            self.published_bytes = sum(file.size_bytes for file, _ in self._model.parts)
            self._half_fits, self._roundings = HalfFits(), Roundings()
            self._files = stack.pop_all()
        # llama.cpp's converter interleaves the halves of each head for its own RoPE, for this family only.
        self._interleaved = self.spec.architecture is Architecture.LLAMA

    @property
    def notes(self) -> list[str]:
        return self._half_fits.notes() + self._roundings.notes()

    def natural_format(self, name: str) -> Format:
        """For F32 this reads the whole matrix once, in pieces."""
        tensor = self._tensor(name)
        if tensor.type in ROUNDED_FORMAT:
            return ROUNDED_FORMAT[tensor.type]
        if tensor.type is not GgmlType.F32:
            return NATURAL_FORMAT[tensor.type]
        return self._half_fits.format_of(
            tensor.name,
            lambda start, stop: self._rows(tensor, start, stop).view("<f4"),
            tensor.shape,
            self._where(tensor),
        )

    def matrix(self, name: str, start_row: int, stop_row: int) -> Matrix:
        tensor = self._tensor(name)
        if not 0 <= start_row <= stop_row <= tensor.shape[0]:
            raise ValueError(f"rows {start_row}…{stop_row} of {name} with {tensor.shape[0]} rows")
        if self._is_interleaved(name):
            raw = self._half_split_rows(tensor, start_row, stop_row)
        else:
            raw = self._rows(tensor, start_row, stop_row)
        if tensor.type in ROUNDED_FORMAT:
            return self._rounded(tensor, raw, start_row)
        matrix = blocks_to_matrix(tensor.type, raw, self.natural_format(name))
        require_finite(matrix, self._where(tensor), start_row)
        return matrix

    def _rounded(self, tensor: GgufTensor, raw: U8, start_row: int) -> Matrix:
        values = dequantize_rounded(tensor.type, raw)
        require_finite_values(values, self._where(tensor), start_row)
        matrix = round_values(tensor.type, values)
        try:
            require_finite(matrix, self._where(tensor), start_row)
        except ModelFileError as error:
            raise UnsupportedModelError(
                f"{self._where(tensor)} has weights beyond what {matrix.format} can hold.",
                hint="Take another quantization of the same model, such as Q4_K_M or Q8_0.",
            ) from error
        self._roundings.add(tensor.type, values, matrix)
        return matrix

    def vector(self, name: str) -> F32:
        tensor = self._tensor(name)
        raw = self._model.files[tensor.name].read(tensor.start, tensor.size_bytes)
        values = dequantize_blocks(tensor.type, raw)
        require_finite_values(values, self._where(tensor))
        if self._is_interleaved(name):
            values = values[half_split_order(self.spec.head_dim, 0, values.size)]
        return values

    def tokenizer(self) -> TokenizerFiles:
        files = tokenizer_files_from_gguf(self._model.metadata)
        return with_rows_only(files, self.spec.vocab_size, "The GGUF file")

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> "GgufSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _tensor(self, name: str) -> GgufTensor:
        """A tied head is the embedding."""
        if name == "head" and self.spec.tied_head:
            name = "embed"
        return self._model.tensors[published_name(name)]

    def _is_interleaved(self, name: str) -> bool:
        return self._interleaved and name.rpartition(".")[2] in _ROTATED

    def _rows(self, tensor: GgufTensor, start_row: int, stop_row: int) -> U8:
        """[rows, row_bytes] uint8, as they lie in the file."""
        row_bytes = tensor.size_bytes // tensor.shape[0]
        n_rows = stop_row - start_row
        raw = self._model.files[tensor.name].read(tensor.start + start_row * row_bytes, n_rows * row_bytes)
        return raw.reshape(n_rows, row_bytes)

    def _half_split_rows(self, tensor: GgufTensor, start_row: int, stop_row: int) -> U8:
        """Moves whole rows, so it is exact for quantized ones; reads the heads that the rows belong to."""
        head_dim = self.spec.head_dim
        first = start_row // head_dim * head_dim
        last = -(-stop_row // head_dim) * head_dim
        return self._rows(tensor, first, last)[half_split_order(head_dim, start_row, stop_row) - first]

    def _where(self, tensor: GgufTensor) -> str:
        return f"{self._model.files[tensor.name].path}: tensor {tensor.name}"


def published_name(name: str) -> str:
    """The name in a GGUF file of a tensor of tpid.model.source. Raises KeyError."""
    if name in _GLOBAL:
        return _GLOBAL[name]
    _, layer, kind = name.split(".")
    return f"blk.{layer}.{_IN_LAYER[kind]}"


def half_split_order(head_dim: int, start_row: int, stop_row: int) -> NDArray[np.intp]:
    """Where the rows start…stop of half-split order lie in the interleaved one: dimension i of a half at 2 i + half."""
    row = np.arange(start_row, stop_row, dtype=np.intp)
    half, pair = np.divmod(row % head_dim, head_dim // 2)
    order: NDArray[np.intp] = row - row % head_dim + 2 * pair + half
    return order


def _checked_spec(where: str, model: GgufModel) -> ModelSpec:
    spec = read_spec(where, model.metadata, model.tensors, _rope_freqs(where, model))
    check_spec(spec, where)
    vectors = {published_name(name): shape for name, shape in vector_shapes(spec).items()}
    expected: dict[str, Shape] = {published_name(name): shape for name, shape in matrix_shapes(spec).items()}
    found = {name: tensor.shape for name, tensor in model.tensors.items()}
    check_inventory(where, found, expected | vectors, ignored=(_ROPE_FREQS,))
    for name in vectors:
        if model.tensors[name].type not in _VECTOR_TYPES:
            kind = model.tensors[name].type.name
            raise UnsupportedModelError(f"{where}: tensor {name} is a vector, but quantized as {kind}.")
    return spec


def _rope_freqs(where: str, model: GgufModel) -> tuple[float, ...] | None:
    tensor = model.tensors.get(_ROPE_FREQS)
    if tensor is None:
        return None
    if len(tensor.shape) != 1 or tensor.shape[0] > MAX_HEAD_DIM or tensor.type is not GgmlType.F32:
        raise ModelFileError(f"{where}: tensor {_ROPE_FREQS} is {tensor.type.name} {tensor.shape}, not F32 factors.")
    raw = model.files[_ROPE_FREQS].read(tensor.start, tensor.size_bytes)
    return tuple(dequantize_blocks(tensor.type, raw).tolist())
