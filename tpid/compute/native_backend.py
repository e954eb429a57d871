"""The fast backend: a share's whole block in one call to C, which computes with the pack's bytes as they are.

Before they meet 4- and 8-bit weights, activations become two int8 each, by groups of 32: the second takes up what
rounding to the first has lost. That makes 15 bits, and prefill and decode give the same results to the bit; one int8 is
an option. f16 and bf16 weights meet fp32. The KV cache is fp16 or int8, and int8 keys are kept without their biases. No
torch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from tpid.compute.backend import BlockBytes, Output, finished_logits, output_of
from tpid.compute.native.library import Block, Cores, Matrix, Shape, matrix_of
from tpid.errors import LoadError
from tpid.model.batch import Segment
from tpid.model.rope import angle_tables, inverse_frequencies, magnitudes
from tpid.model.spec import Gate, ModelSpec
from tpid.model.weights import F32
from tpid.pack.geometry import ATTN_MATRICES, COLUMN_SPLIT, FFN_MATRICES, Half, Share, UnitGeometry, ffn_unit_columns
from tpid.pack.tiles import U8


@dataclass(frozen=True, slots=True)
class NativeBlock:
    """A share of a block as C sees it; `kept` owns the memory that `block` points to."""

    half: Half
    block: Block
    kept: tuple[U8 | F32, ...]
    output: Output


_GATES = {Gate.SILU: 0, Gate.GELU_TANH: 1}


class NativeBackend:
    """One rank's share on the CPU, with its KV cache."""

    def __init__(
        self,
        cores: Cores,
        spec: ModelSpec,
        share: Share,
        *,
        n_slots: int,
        context_tokens: int,
        max_pass_tokens: int,
        int8_cache: bool = False,
    ) -> None:
        """`int8_cache`: keys and values as int8 by groups of 32 of a head, not as fp16.

        Raises LoadError if the cache and the buffers of a pass of `max_pass_tokens` cannot be had.
        """
        self._cores = cores
        self._spec = spec
        self._share = share
        self._n_slots = n_slots
        self._context_tokens = context_tokens
        self._max_pass_tokens = max_pass_tokens
        self._n_tokens = 0
        self._frequencies = [inverse_frequencies(rope, spec.head_dim, context_tokens) for rope in spec.ropes]
        self._free = cores.library.tpid_backend_free
        shape = native_shape(
            spec, share, n_slots=n_slots, context_tokens=context_tokens, max_pass_tokens=max_pass_tokens,
            int8_cache=int8_cache,
        )  # fmt: skip
        frequencies = key_frequencies(spec, share, context_tokens) if int8_cache else None
        self._handle: int | None = cores.library.tpid_backend_create(
            cores.handle, shape, None if frequencies is None else frequencies.ctypes.data
        )
        if self._handle is None:
            raise LoadError(
                f"There is not enough memory for the cache of {n_slots} sequences of {context_tokens} tokens.",
                hint="Lower context_tokens in the configuration, or close other programs.",
            )

    def __del__(self) -> None:
        if getattr(self, "_handle", None) is not None:
            self._free(self._handle)
            self._handle = None

    def prepare(self, block: BlockBytes) -> NativeBlock:
        """Without a copy: `block.units` (it may be read-only) must stay as it is while the result is used."""
        half, units, geometry = block.block.half, block.units, block.geometry
        expected = (len(self._share.of(half)), geometry.stride_bytes)
        if units.shape != expected or units.dtype != np.uint8 or not units.flags.c_contiguous:
            raise ValueError(f"{block.block}: units are {units.shape}, not contiguous uint8 {expected}")
        names = ATTN_MATRICES if half is Half.ATTN else FFN_MATRICES
        layer = self._spec.layer(block.block.layer)
        native = Block(
            units.ctypes.data, geometry.stride_bytes, len(units), block.block.layer, layer.window_tokens or 0,
            -1 if layer.rope is None else self._spec.ropes.index(layer.rope), _GATES[layer.gate],
            layer.attention_scale or self._spec.head_dim**-0.5, layer.attention_softcap or 0.0,
        )  # fmt: skip
        native.matrices = (Matrix * 4)(*(matrix_of(geometry.matrix(name)) for name in names))
        vectors = _vectors(block)
        native.norm = vectors["norm"].ctypes.data
        for i, name in enumerate(name for name in names if name not in COLUMN_SPLIT):
            if f"{name}_bias" in vectors:
                native.biases[i] = vectors[f"{name}_bias"].ctypes.data
        if half is Half.ATTN and layer.qk_norm:
            native.q_norm, native.k_norm = vectors["q_norm"].ctypes.data, vectors["k_norm"].ctypes.data
        return NativeBlock(half, native, (units, *vectors.values()), output_of(self._spec, block))

    def begin(self, segments: tuple[Segment, ...]) -> None:
        """Raises ValueError if the segments do not fit the cache or the pass."""
        for segment in segments:
            if not (0 <= segment.slot < self._n_slots and segment.start >= 0 and segment.n_tokens > 0):
                raise ValueError(f"{segment} is not one of {self._n_slots} slots")
            if segment.start + segment.n_tokens > self._context_tokens:
                raise ValueError(f"{segment} is beyond the context of {self._context_tokens} tokens")
        n_tokens = sum(segment.n_tokens for segment in segments)
        if not 0 < n_tokens <= self._max_pass_tokens:
            raise ValueError(f"a pass has 1 to {self._max_pass_tokens} tokens, not {n_tokens}")
        self._n_tokens = n_tokens
        positions = np.concatenate([np.arange(s.start, s.start + s.n_tokens, dtype=np.float32) for s in segments])
        cos, sin = angle_tables(self._spec.ropes, self._frequencies, positions)
        numbers = np.array([(s.slot, s.start, s.n_tokens) for s in segments], np.int32)
        with self._cores.lock:
            self._cores.library.tpid_begin(
                self._handle, numbers.ctypes.data, len(segments), cos.ctypes.data, sin.ctypes.data
            )

    def attention(self, weights: NativeBlock, x: F32) -> F32 | None:
        if len(self._share.attn) == 0:
            return None
        return self._compute(self._cores.library.tpid_attention, Half.ATTN, weights, x)

    def ffn(self, weights: NativeBlock, x: F32) -> F32 | None:
        if len(self._share.ffn) == 0:
            return None
        return self._compute(self._cores.library.tpid_ffn, Half.FFN, weights, x)

    def _compute(self, call: Callable[..., None], half: Half, weights: NativeBlock, x: F32) -> F32:
        x = np.ascontiguousarray(x, np.float32)
        expected = (self._n_tokens, self._spec.hidden_size)
        if weights.half is not half or x.shape != expected:
            raise ValueError(f"x is {x.shape} for a block of {weights.half}, expected {expected} of {half}")
        partial = np.empty(expected, np.float32)
        with self._cores.lock:
            call(self._handle, weights.block, x.ctypes.data, partial.ctypes.data)
        return partial


@dataclass(frozen=True, slots=True)
class NativeSlice:
    """Units of the head."""

    units: U8  # [n_units, stride]
    n_rows: int


class NativeHead:
    """Final norm and LM head, on the coordinator."""

    def __init__(self, cores: Cores, spec: ModelSpec, geometry: UnitGeometry, final_norm: F32) -> None:
        self._cores = cores
        self._matrix = geometry.matrix("rows")
        self._spec = spec
        self._norm = np.array(final_norm, np.float32)
        self._work = np.empty(cores.work_bytes(self._matrix, 8), np.uint8)

    def prepare(self, units: U8, first_unit: int) -> NativeSlice:
        """`units` must stay as they are while the result is used."""
        n_rows = min(len(units) * self._matrix.rows, self._spec.vocab_size - first_unit * self._matrix.rows)
        return NativeSlice(np.ascontiguousarray(units), n_rows)

    def logits(self, weights: NativeSlice, hidden: F32) -> F32:
        """hidden [n, hidden] fp32 -> [n, rows of the slice] fp32"""
        logits = self._cores.rows(
            self._matrix, weights.units, weights.n_rows, hidden,
            norm=self._norm, norm_eps=self._spec.norm_eps, work=self._work,
        )  # fmt: skip
        return finished_logits(logits, self._spec)


def native_shape(
    spec: ModelSpec, share: Share, *, n_slots: int, context_tokens: int, max_pass_tokens: int, int8_cache: bool
) -> Shape:
    return Shape(
        spec.hidden_size, spec.head_dim, spec.heads_per_group, spec.n_layers, n_slots, context_tokens,
        max_pass_tokens, len(share.attn), len(share.ffn), ffn_unit_columns(spec.ffn_size), int8_cache,
        len(spec.ropes), spec.norm_eps,
    )  # fmt: skip


def key_frequencies(spec: ModelSpec, share: Share, context_tokens: int) -> F32 | None:
    """What keys' biases are rotated and multiplied by, [2, head_dim / 2], for an int8 cache that keys lie in without
    them; None: nothing is left out."""
    rope = spec.key_bias_rope
    if rope is None or not len(share.attn):
        return None
    frequencies = inverse_frequencies(rope, spec.head_dim, context_tokens)
    return np.stack([frequencies, magnitudes(rope, frequencies)])


def _vectors(block: BlockBytes) -> Mapping[str, F32]:
    """Norms and the biases of the share's rows, contiguous and padded to whole units."""
    half, n_units = block.block.half, len(block.units)
    vectors = {"norm": block.vectors["attn_norm" if half is Half.ATTN else "ffn_norm"]}
    for matrix in block.geometry.matrices:
        bias = block.vectors.get(f"{matrix.name}_bias")
        if bias is not None and matrix.name not in COLUMN_SPLIT:
            part = bias[block.first_unit * matrix.rows : (block.first_unit + n_units) * matrix.rows]
            vectors[f"{matrix.name}_bias"] = np.pad(part, (0, n_units * matrix.rows - len(part)))
    if half is Half.ATTN:
        vectors |= {name: block.vectors[name] for name in ("q_norm", "k_norm") if name in block.vectors}
    return {name: np.array(vector, np.float32) for name, vector in vectors.items()}
