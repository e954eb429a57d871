"""A GGUF file as a source of weights."""

from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.families import FAMILIES
from tpid.model.families.metadata import FACTOR_TENSORS
from tpid.model.finite import require_finite, require_finite_values
from tpid.model.gguf.architecture import read_spec
from tpid.model.gguf.blocks import NATURAL_FORMAT, U8, blocks_to_matrix, dequantize_blocks
from tpid.model.gguf.container import GgufTensor
from tpid.model.gguf.parts import GgufModel, open_gguf
from tpid.model.gguf.rounded import ROUNDED_FORMAT, Roundings, dequantize_rounded, round_values
from tpid.model.gguf.tokenizer import tokenizer_files_from_gguf
from tpid.model.gguf.types import GgmlType
from tpid.model.halffit import HalfFits
from tpid.model.inventory import check_inventory, vector_shapes
from tpid.model.limits import MAX_HEAD_DIM, check_spec
from tpid.model.published import Names, Place, ordered_rows, places, read_ordered, row_order, tensor_shapes
from tpid.model.sampling_defaults import SamplingDefaults, of_gguf
from tpid.model.source import TokenizerFiles
from tpid.model.spec import ModelSpec
from tpid.model.token_rows import with_rows_only
from tpid.model.weightfile import fingerprint
from tpid.model.weights import F32, Format, Matrix

_VECTOR_TYPES = (GgmlType.F32, GgmlType.F16, GgmlType.BF16)
NAMES = Names(
    whole={"embed": "token_embd.weight", "head": "output.weight", "final_norm": "output_norm.weight"},
    prefix="blk.{}.",
    in_layer={
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
        "attn_output_norm": "post_attention_norm.weight",
        "ffn_output_norm": "post_ffw_norm.weight",
    },
)


class GgufSource:
    """A WeightSource over one GGUF file or a split one. Closes itself as a context manager."""

    def __init__(self, path: Path) -> None:
        """Reads headers only. Raises ModelFileError and UnsupportedModelError."""
        with ExitStack() as stack:
            self._model = open_gguf(path, stack)
            self.spec = _checked_spec(str(path), self._model)
            family = FAMILIES[self.spec.architecture]
            self._order = family.gguf_order
            self._places = places(self.spec, NAMES.with_family(family.gguf_names))
            self.fingerprint = fingerprint(self._model.parts)
            self.published_bytes = sum(file.size_bytes for file, _ in self._model.parts)
            self._half_fits, self._roundings = HalfFits(), Roundings()
            self._files = stack.pop_all()

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
        tensor, place = self._tensor(name), self._place(name)
        if not 0 <= start_row <= stop_row <= place.shape[0]:
            raise ValueError(f"rows {start_row}…{stop_row} of {name} with {place.shape[0]} rows")
        order = row_order(self.spec, name, self._order)
        raw = read_ordered(lambda start, stop: self._rows(tensor, start, stop), place, order, start_row, stop_row)
        if tensor.type in ROUNDED_FORMAT:
            return self._rounded(tensor, raw, place.first_row + start_row)
        matrix = blocks_to_matrix(tensor.type, raw, self.natural_format(name))
        require_finite(matrix, self._where(tensor), place.first_row + start_row)
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
        tensor, place = self._tensor(name), self._place(name)
        raw = self._model.files[tensor.name].read(tensor.start, tensor.size_bytes)
        values = dequantize_blocks(tensor.type, raw)[place.first_row : place.first_row + place.shape[0]]
        require_finite_values(values, self._where(tensor))
        order = row_order(self.spec, name, self._order)
        return values if order is None else values[ordered_rows(order, 0, values.size)]

    def tokenizer(self) -> TokenizerFiles:
        files = tokenizer_files_from_gguf(self._model.metadata)
        return with_rows_only(files, self.spec.vocab_size, "The GGUF file")

    def sampling_defaults(self) -> SamplingDefaults:
        return of_gguf(self._model.metadata)

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> "GgufSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _place(self, name: str) -> Place:
        """A tied head is the embedding."""
        return self._places["embed" if name == "head" and self.spec.tied_head else name]

    def _tensor(self, name: str) -> GgufTensor:
        return self._model.tensors[self._place(name).tensor]

    def _rows(self, tensor: GgufTensor, start_row: int, stop_row: int) -> U8:
        """[rows, row_bytes] uint8, as they lie in the file."""
        row_bytes = tensor.size_bytes // tensor.shape[0]
        n_rows = stop_row - start_row
        raw = self._model.files[tensor.name].read(tensor.start + start_row * row_bytes, n_rows * row_bytes)
        return raw.reshape(n_rows, row_bytes)

    def _where(self, tensor: GgufTensor) -> str:
        return f"{self._model.files[tensor.name].path}: tensor {tensor.name}"


def _checked_spec(where: str, model: GgufModel) -> ModelSpec:
    spec = read_spec(where, model.metadata, model.tensors, _factors(where, model))
    check_spec(spec, where)
    found = places(spec, NAMES.with_family(FAMILIES[spec.architecture].gguf_names))
    shapes = {name: tensor.shape for name, tensor in model.tensors.items()}
    check_inventory(where, shapes, tensor_shapes(found), ignored=FACTOR_TENSORS)
    for name in (found[vector].tensor for vector in vector_shapes(spec)):
        if model.tensors[name].type not in _VECTOR_TYPES:
            kind = model.tensors[name].type.name
            raise UnsupportedModelError(f"{where}: tensor {name} is a vector, but quantized as {kind}.")
    return spec


def _factors(where: str, model: GgufModel) -> dict[str, tuple[float, ...]]:
    """Of RoPE, by the names of their tensors."""
    found = {}
    for name in FACTOR_TENSORS:
        tensor = model.tensors.get(name)
        if tensor is None:
            continue
        if len(tensor.shape) != 1 or tensor.shape[0] > MAX_HEAD_DIM or tensor.type is not GgmlType.F32:
            raise ModelFileError(f"{where}: tensor {name} is {tensor.type.name} {tensor.shape}, not F32 factors.")
        raw = model.files[name].read(tensor.start, tensor.size_bytes)
        found[name] = tuple(dequantize_blocks(tensor.type, raw).tolist())
    return found
