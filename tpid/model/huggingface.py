"""A directory as Hugging Face publishes models: config.json and one or more safetensors files."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np

from tpid.errors import ModelFileError, UnsupportedModelError
from tpid.model.families import FAMILIES
from tpid.model.finite import require_finite, require_finite_values
from tpid.model.halffit import HalfFits
from tpid.model.huggingface_config import read_spec
from tpid.model.huggingface_files import weight_names
from tpid.model.inventory import check_inventory
from tpid.model.jsonfile import read_json_object
from tpid.model.limits import check_spec
from tpid.model.mistaken import START_BYTES, found_instead
from tpid.model.published import Names, Place, ordered_rows, places, read_ordered, row_order, tensor_shapes
from tpid.model.sampling_defaults import SamplingDefaults, of_generation_config
from tpid.model.source import TokenizerFiles
from tpid.model.spec import ModelSpec
from tpid.model.tensorfile import MAX_TENSORS, TensorEntry, read_header
from tpid.model.token_rows import with_rows_only
from tpid.model.tokenizer_files import tokenizer_files_from_directory
from tpid.model.weightfile import U8, WeightFile, fingerprint
from tpid.model.weights import F32, Format, HalfMatrix, Matrix, quantize

CONFIG_NAME = "config.json"
GENERATION_NAME = "generation_config.json"
MAX_CONFIG_BYTES = 4 << 20

OWN_HEAD_NOTICE = (
    "config.json ties the head to the embedding (tie_word_embeddings), but the model holds another lm_head.weight: "
    "that one is used, as transformers does it."
)

_COMPARED_WEIGHTS = 1 << 20  # at once
_HALVES = {"F16": Format.F16, "BF16": Format.BF16}
_DTYPES = ("F32", *_HALVES)
NAMES = Names(
    whole={"embed": "model.embed_tokens.weight", "head": "lm_head.weight", "final_norm": "model.norm.weight"},
    prefix="model.layers.{}.",
    in_layer={
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "o": "self_attn.o_proj.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        "attn_norm": "input_layernorm.weight",
        "ffn_norm": "post_attention_layernorm.weight",
        "q_bias": "self_attn.q_proj.bias",
        "k_bias": "self_attn.k_proj.bias",
        "v_bias": "self_attn.v_proj.bias",
        "o_bias": "self_attn.o_proj.bias",
        "gate_bias": "mlp.gate_proj.bias",
        "up_bias": "mlp.up_proj.bias",
        "down_bias": "mlp.down_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
    },
)


@dataclass(frozen=True, slots=True)
class _Tensor:
    name: str
    file: WeightFile
    entry: TensorEntry

    @property
    def where(self) -> str:
        return f"{self.file.path}: tensor {self.name}"


class HuggingFaceSource:
    """A WeightSource over such a directory. Closes itself as a context manager."""

    def __init__(self, directory: Path) -> None:
        """Reads headers, and of a head that is stored beside a tied embedding the weights.

        Raises ModelFileError and UnsupportedModelError.
        """
        config_path = directory / CONFIG_NAME
        self._directory = directory
        spec = read_spec(read_json_object(config_path, MAX_CONFIG_BYTES), str(config_path))
        check_spec(spec, str(config_path))
        with ExitStack() as stack:
            shards: list[tuple[WeightFile, int]] = []
            self._tensors: dict[str, _Tensor] = {}
            for name in weight_names(directory):
                file, entries = _open(directory / name, stack)
                _add(self._tensors, file, entries)
                shards.append((file, _header_bytes(entries)))
            self._family = FAMILIES[spec.architecture]
            self._check_tensors(str(directory), spec)
            self._says_tied = spec.tied_head
            self.spec = self._with_its_head(str(directory), spec)
            self._places = self._places_of(self.spec)
            config = stack.enter_context(WeightFile(config_path))
            self.fingerprint = fingerprint([(config, config.size_bytes), *shards])
            self.published_bytes = sum(file.size_bytes for file, _ in shards)
            self._half_fits = HalfFits()
            self._files = stack.pop_all()

    @property
    def notes(self) -> list[str]:
        own_head = [] if self.spec.tied_head == self._says_tied else [OWN_HEAD_NOTICE]
        return own_head + self._half_fits.notes()

    def natural_format(self, name: str) -> Format:
        """For F32 this reads the whole matrix once, in pieces."""
        tensor = self._tensor(name)
        if tensor.entry.dtype in _HALVES:
            return _HALVES[tensor.entry.dtype]
        return self._half_fits.format_of(
            tensor.name,
            lambda start, stop: _rows(tensor, start, stop).view("<f4"),
            tensor.entry.shape,
            tensor.where,
        )

    def matrix(self, name: str, start_row: int, stop_row: int) -> Matrix:
        tensor, place = self._tensor(name), self._place(name)
        if not 0 <= start_row <= stop_row <= place.shape[0]:
            raise ValueError(f"rows {start_row}…{stop_row} of {name} with {place.shape[0]} rows")
        order = row_order(self.spec, name, self._family.config_order)
        raw = read_ordered(lambda start, stop: _rows(tensor, start, stop), place, order, start_row, stop_row)
        format = self.natural_format(name)
        if tensor.entry.dtype == "F32":
            matrix = quantize(raw.view("<f4").astype(np.float32, copy=False), format)
        else:
            matrix = HalfMatrix(raw.view("<u2").astype(np.uint16, copy=False), format)
        require_finite(matrix, tensor.where, place.first_row + start_row)
        return matrix

    def vector(self, name: str) -> F32:
        tensor, place = self._tensor(name), self._place(name)
        values = _values(tensor, place.first_row, place.first_row + place.shape[0]).reshape(-1)
        require_finite_values(values, tensor.where)
        if name.endswith("norm"):
            values = values + np.float32(self._family.norm_offset)
        order = row_order(self.spec, name, self._family.config_order)
        return values if order is None else values[ordered_rows(order, 0, values.size)]

    def tokenizer(self) -> TokenizerFiles:
        files = tokenizer_files_from_directory(self._directory)
        return with_rows_only(files, self.spec.vocab_size, str(self._directory))

    def sampling_defaults(self) -> SamplingDefaults:
        path = self._directory / GENERATION_NAME
        return of_generation_config(read_json_object(path, MAX_CONFIG_BYTES)) if path.is_file() else SamplingDefaults()

    def close(self) -> None:
        self._files.close()

    def __enter__(self) -> "HuggingFaceSource":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _with_its_head(self, where: str, spec: ModelSpec) -> ModelSpec:
        """As transformers has it: a head that is stored with other values than the embedding is not tied to it."""
        head = self._tensors.get(NAMES.whole["head"])
        if not spec.tied_head or head is None or _are_equal(self._tensors[NAMES.whole["embed"]], head):
            return spec
        own = replace(spec, tied_head=False)
        self._check_tensors(where, own)
        return own

    def _places_of(self, spec: ModelSpec) -> dict[str, Place]:
        return places(spec, NAMES.with_family(self._family.config_names))

    def _place(self, name: str) -> Place:
        """A tied head is the embedding."""
        return self._places["embed" if name == "head" and self.spec.tied_head else name]

    def _tensor(self, name: str) -> _Tensor:
        return self._tensors[self._place(name).tensor]

    def _check_tensors(self, where: str, spec: ModelSpec) -> None:
        expected = tensor_shapes(self._places_of(spec))
        found = {name: tensor.entry.shape for name, tensor in self._tensors.items()}
        # A tied head may be stored all the same; old Llama files hold RoPE's frequencies, which follow from the spec.
        ignored = {NAMES.whole["head"]} if spec.tied_head else set()
        ignored |= {name for name in found if name.endswith(".rotary_emb.inv_freq")}
        check_inventory(where, found, expected, ignored)
        for name in expected:
            tensor = self._tensors[name]
            if tensor.entry.dtype not in _DTYPES:
                raise UnsupportedModelError(f"{tensor.where} is {tensor.entry.dtype}; tpid reads {', '.join(_DTYPES)}.")


def _open(path: Path, stack: ExitStack) -> tuple[WeightFile, dict[str, TensorEntry]]:
    file = WeightFile(path)
    stack.callback(file.close)
    try:
        with file.stream() as stream:
            return file, read_header(stream, str(path))
    except ModelFileError as error:
        instead = found_instead(path, file.read(0, min(START_BYTES, file.size_bytes)).tobytes())
        if instead is None:
            raise
        raise ModelFileError(f"{path} is {instead.what}.", hint=instead.hint) from error


def _header_bytes(entries: Mapping[str, TensorEntry]) -> int:
    return min((entry.start for entry in entries.values()), default=0)


def _add(tensors: dict[str, _Tensor], file: WeightFile, entries: Mapping[str, TensorEntry]) -> None:
    for name, entry in entries.items():
        if name in tensors:
            raise ModelFileError(f"{file.path} and {tensors[name].file.path} both hold tensor {name}.")
        tensors[name] = _Tensor(name, file, entry)
    if len(tensors) > MAX_TENSORS:
        raise ModelFileError(f"{file.path} and the files before it hold more than {MAX_TENSORS} tensors.")


def _are_equal(one: _Tensor, other: _Tensor) -> bool:
    """Two matrices of one shape, value by value; reads both, in pieces, up to the first that differs."""
    if one.entry.shape != other.entry.shape or {one.entry.dtype, other.entry.dtype} - set(_DTYPES):
        return False
    rows, columns = one.entry.shape
    step = max(_COMPARED_WEIGHTS // columns, 1)
    return all(
        np.array_equal(_values(one, start, min(start + step, rows)), _values(other, start, min(start + step, rows)))
        for start in range(0, rows, step)
    )


def _values(tensor: _Tensor, start_row: int, stop_row: int) -> F32:
    raw = _rows(tensor, start_row, stop_row)
    if tensor.entry.dtype == "F32":
        return raw.view("<f4").astype(np.float32, copy=False)
    return HalfMatrix(raw.view("<u2").astype(np.uint16, copy=False), _HALVES[tensor.entry.dtype]).dequantize()


def _rows(tensor: _Tensor, start_row: int, stop_row: int) -> U8:
    """[rows, row_bytes] uint8."""
    row_bytes = (tensor.entry.stop - tensor.entry.start) // tensor.entry.shape[0]
    n_rows = stop_row - start_row
    return tensor.file.read(tensor.entry.start + start_row * row_bytes, n_rows * row_bytes).reshape(n_rows, row_bytes)
