"""The readable backend: dequantizes a share to fp32 and computes with torch. The reference for tests."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tpid.compute.backend import BlockBytes, Output, finished_logits, output_of
from tpid.model.batch import Segment
from tpid.model.rope import angle_tables, inverse_frequencies
from tpid.model.spec import Gate, LayerSpec, ModelSpec
from tpid.model.weights import F32
from tpid.pack.geometry import COLUMN_SPLIT, Half, Share, UnitGeometry
from tpid.pack.tiles import U8, dequantize_tiles


@dataclass(frozen=True, slots=True)
class TorchBlock:
    """Matrices of a share of a block in fp32, `[outputs, inputs]`, units joined; empty where it has no units."""

    layer: int
    spec: LayerSpec
    matrices: dict[str, Tensor]
    vectors: dict[str, Tensor]  # biases cut to the share
    output: Output


class TorchBackend:
    """One rank's share on the CPU, with its KV cache in fp32."""

    def __init__(self, spec: ModelSpec, share: Share, *, n_slots: int, context_tokens: int) -> None:
        self._spec = spec
        self._share = share
        # Memory is taken page by page as positions are written, not here.
        shape = (spec.n_layers, n_slots, len(share.attn), context_tokens, spec.head_dim)
        self._keys = torch.empty(shape)
        self._values = torch.empty(shape)
        self._frequencies = [inverse_frequencies(rope, spec.head_dim, context_tokens) for rope in spec.ropes]
        self._segments: tuple[Segment, ...] = ()
        self._cos, self._sin = torch.empty(0), torch.empty(0)  # [ropes, n_tokens, head_dim / 2]

    def prepare(self, block: BlockBytes) -> TorchBlock:
        n_units = block.units.shape[0]
        matrices = {
            matrix.name: torch.from_numpy(join_units(block.units, block.geometry, matrix.name))
            for matrix in block.geometry.matrices
        }
        norm = "attn_norm" if block.block.half is Half.ATTN else "ffn_norm"
        vectors = {"norm": block.vectors[norm]}
        for name, vector in block.vectors.items():
            if name in ("q_norm", "k_norm"):
                vectors[name] = vector
            elif name.removesuffix("_bias") in matrices and name.removesuffix("_bias") not in COLUMN_SPLIT:
                rows = block.geometry.matrix(name.removesuffix("_bias")).rows
                part = vector[block.first_unit * rows : (block.first_unit + n_units) * rows]
                vectors[name] = np.pad(part, (0, n_units * rows - len(part)))
        return TorchBlock(
            block.block.layer,
            self._spec.layer(block.block.layer),
            matrices,
            {name: torch.from_numpy(vector.copy()) for name, vector in vectors.items()},
            output_of(self._spec, block),
        )

    def begin(self, segments: tuple[Segment, ...]) -> None:
        self._segments = segments
        positions = np.concatenate([np.arange(s.start, s.start + s.n_tokens, dtype=np.float32) for s in segments])
        tables = angle_tables(self._spec.ropes, self._frequencies, positions)
        self._cos, self._sin = (torch.from_numpy(table) for table in tables)

    @torch.inference_mode()
    def attention(self, weights: TorchBlock, x: F32) -> F32 | None:
        if len(self._share.attn) == 0:
            return None
        head_dim = self._spec.head_dim
        normed = self._norm(torch.from_numpy(x), weights.vectors["norm"])
        q, k, v = (self._project(weights, name, normed).view(len(x), -1, head_dim) for name in ("q", "k", "v"))
        if weights.spec.qk_norm:
            q = self._norm(q, weights.vectors["q_norm"])
            k = self._norm(k, weights.vectors["k_norm"])
        if weights.spec.rope is not None:
            table = self._spec.ropes.index(weights.spec.rope)
            q, k = (rotate(heads, self._cos[table], self._sin[table]) for heads in (q, k))

        mixed, row = [], 0
        for segment in self._segments:
            rows = slice(row, row + segment.n_tokens)
            mixed.append(self._attend(weights, segment, q[rows], k[rows], v[rows]))
            row += segment.n_tokens
        partial: F32 = functional.linear(torch.cat(mixed), weights.matrices["o"]).numpy()
        return partial

    @torch.inference_mode()
    def ffn(self, weights: TorchBlock, x: F32) -> F32 | None:
        if len(self._share.ffn) == 0:
            return None
        normed = self._norm(torch.from_numpy(x), weights.vectors["norm"])
        gate, up = self._project(weights, "gate", normed), self._project(weights, "up", normed)
        gate = functional.silu(gate) if weights.spec.gate is Gate.SILU else functional.gelu(gate, approximate="tanh")
        partial: F32 = functional.linear(gate * up, weights.matrices["down"]).numpy()
        return partial

    def _attend(self, weights: TorchBlock, segment: Segment, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [n, heads, head_dim], k and v [n, kv heads, head_dim] -> [n, heads * head_dim]"""
        n, end = segment.n_tokens, segment.start + segment.n_tokens
        keys, values = self._keys[weights.layer, segment.slot], self._values[weights.layer, segment.slot]
        keys[:, segment.start : end] = k.transpose(0, 1)
        values[:, segment.start : end] = v.transpose(0, 1)

        window = weights.spec.window_tokens
        first = max(0, segment.start + 1 - window) if window is not None else 0
        query_at = torch.arange(segment.start, end)[:, None]
        key_at = torch.arange(first, end)
        visible = key_at <= query_at
        if window is not None:
            visible &= key_at > query_at - window
        # The query heads of a KV head are rows beside each other: [kv heads, heads per group * n, head_dim].
        groups = self._spec.heads_per_group
        grouped = q.transpose(0, 1).reshape(-1, groups * n, self._spec.head_dim)
        mixed = _softmax_of_scores(
            grouped, keys[:, first:end], values[:, first:end], visible.repeat(groups, 1), weights.spec
        )
        return mixed.reshape(-1, n, self._spec.head_dim).transpose(0, 1).flatten(1)

    def _project(self, weights: TorchBlock, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights.matrices[name], weights.vectors.get(f"{name}_bias"))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._spec.norm_eps)


def _softmax_of_scores(q: Tensor, keys: Tensor, values: Tensor, visible: Tensor, spec: LayerSpec) -> Tensor:
    """q [kv heads, rows, head_dim], keys and values [kv heads, positions, head_dim], visible [rows, positions]."""
    if spec.attention_softcap is None:
        return functional.scaled_dot_product_attention(q, keys, values, attn_mask=visible, scale=spec.attention_scale)
    scores = q @ keys.transpose(1, 2) * (spec.attention_scale or q.shape[-1] ** -0.5)
    scores = spec.attention_softcap * torch.tanh(scores / spec.attention_softcap)
    return scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ values


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """x [n_tokens, heads, head_dim], cos and sin [n_tokens, head_dim / 2] -> x rotated, the same shape."""
    cos, sin = cos[:, None], sin[:, None]
    low, high = x.chunk(2, dim=-1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), dim=-1)


class TorchHead:
    """Final norm and LM head, on the coordinator."""

    def __init__(self, spec: ModelSpec, geometry: UnitGeometry, final_norm: F32) -> None:
        self._geometry = geometry
        self._spec = spec
        self._norm = torch.from_numpy(final_norm)

    def prepare(self, units: U8, first_unit: int) -> Tensor:
        """[rows, hidden] fp32"""
        first_row = first_unit * self._geometry.matrix("rows").rows
        return torch.from_numpy(join_units(units, self._geometry, "rows")[: self._spec.vocab_size - first_row])

    @torch.inference_mode()
    def logits(self, weights: Tensor, hidden: F32) -> F32:
        """hidden [n, hidden] fp32 -> [n, rows of the slice] fp32"""
        normed = functional.rms_norm(torch.from_numpy(hidden), self._norm.shape, self._norm, self._spec.norm_eps)
        return finished_logits(functional.linear(normed, weights).numpy(), self._spec)


def join_units(units: U8, geometry: UnitGeometry, name: str) -> F32:
    """One matrix of all `units` [n_units, stride], dequantized: fp32 [outputs, inputs]."""
    matrix = geometry.matrix(name)
    n_units, rows, columns = units.shape[0], matrix.rows, matrix.columns
    stop = matrix.offset_bytes + matrix.size_bytes
    tiles = np.ascontiguousarray(units[:, matrix.offset_bytes : stop]).reshape(-1)
    padded_rows = n_units * matrix.bands * 8
    values = dequantize_tiles(tiles, padded_rows, columns, matrix.format)
    by_unit = values.reshape(n_units, matrix.bands * 8, columns)[:, :rows]
    if name in COLUMN_SPLIT:
        return np.ascontiguousarray(by_unit.transpose(1, 0, 2)).reshape(rows, n_units * columns)
    return np.ascontiguousarray(by_unit).reshape(n_units * rows, columns)
