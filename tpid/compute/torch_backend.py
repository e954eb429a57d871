"""The readable backend: dequantizes a share to fp32 and computes with torch. The reference for tests."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from tpid.compute.backend import BlockBytes
from tpid.compute.rotary import inverse_frequencies, rotate
from tpid.model.batch import Segment
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32
from tpid.pack.geometry import COLUMN_SPLIT, Half, Share, UnitGeometry
from tpid.pack.tiles import U8, dequantize_tiles


@dataclass(frozen=True, slots=True)
class TorchBlock:
    """Matrices of a share of a block in fp32, `[outputs, inputs]`, units joined; empty where it has no units."""

    layer: int
    matrices: dict[str, Tensor]
    vectors: dict[str, Tensor]  # biases cut to the share
    output_bias: F32 | None


class TorchBackend:
    """One rank's share on the CPU, with its KV cache in fp32."""

    def __init__(self, spec: ModelSpec, share: Share, *, n_slots: int, context_tokens: int) -> None:
        self._spec = spec
        self._share = share
        # Memory is taken page by page as positions are written, not here.
        shape = (spec.n_layers, n_slots, len(share.attn), context_tokens, spec.head_dim)
        self._keys = torch.empty(shape)
        self._values = torch.empty(shape)
        self._inverse_frequencies = inverse_frequencies(spec)
        self._segments: tuple[Segment, ...] = ()
        self._positions = torch.empty(0)

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
            matrices,
            {name: torch.from_numpy(vector.copy()) for name, vector in vectors.items()},
            block.vectors.get("o_bias" if block.block.half is Half.ATTN else "down_bias"),
        )

    def begin(self, segments: tuple[Segment, ...]) -> None:
        self._segments = segments
        self._positions = torch.cat([torch.arange(s.start, s.start + s.n_tokens) for s in segments])

    @torch.inference_mode()
    def attention(self, weights: TorchBlock, x: F32) -> F32 | None:
        if len(self._share.attn) == 0:
            return None
        head_dim = self._spec.head_dim
        normed = self._norm(torch.from_numpy(x), weights.vectors["norm"])
        q, k, v = (self._project(weights, name, normed).view(len(x), -1, head_dim) for name in ("q", "k", "v"))
        if self._spec.qk_norm:
            q = self._norm(q, weights.vectors["q_norm"])
            k = self._norm(k, weights.vectors["k_norm"])
        angles = torch.outer(self._positions.float(), self._inverse_frequencies)
        q, k = rotate(q, angles), rotate(k, angles)

        mixed, row = [], 0
        for segment in self._segments:
            rows = slice(row, row + segment.n_tokens)
            mixed.append(self._attend(weights.layer, segment, q[rows], k[rows], v[rows]))
            row += segment.n_tokens
        partial: F32 = functional.linear(torch.cat(mixed), weights.matrices["o"]).numpy()
        return partial

    @torch.inference_mode()
    def ffn(self, weights: TorchBlock, x: F32) -> F32 | None:
        if len(self._share.ffn) == 0:
            return None
        normed = self._norm(torch.from_numpy(x), weights.vectors["norm"])
        gated = functional.silu(self._project(weights, "gate", normed)) * self._project(weights, "up", normed)
        partial: F32 = functional.linear(gated, weights.matrices["down"]).numpy()
        return partial

    def _attend(self, layer: int, segment: Segment, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q [n, heads, head_dim], k and v [n, kv heads, head_dim] -> [n, heads * head_dim]"""
        n, end = segment.n_tokens, segment.start + segment.n_tokens
        keys, values = self._keys[layer, segment.slot], self._values[layer, segment.slot]
        keys[:, segment.start : end] = k.transpose(0, 1)
        values[:, segment.start : end] = v.transpose(0, 1)

        window = self._spec.window_of(layer)
        first = max(0, segment.start + 1 - window) if window is not None else 0
        query_at = torch.arange(segment.start, end)[:, None]
        key_at = torch.arange(first, end)
        visible = key_at <= query_at
        if window is not None:
            visible &= key_at > query_at - window
        # The query heads of a KV head are rows beside each other: [kv heads, heads per group * n, head_dim].
        groups = self._spec.heads_per_group
        grouped = q.transpose(0, 1).reshape(-1, groups * n, self._spec.head_dim)
        mixed = functional.scaled_dot_product_attention(
            grouped, keys[:, first:end], values[:, first:end], attn_mask=visible.repeat(groups, 1)
        )
        return mixed.reshape(-1, n, self._spec.head_dim).transpose(0, 1).flatten(1)

    def _project(self, weights: TorchBlock, name: str, x: Tensor) -> Tensor:
        return functional.linear(x, weights.matrices[name], weights.vectors.get(f"{name}_bias"))

    def _norm(self, x: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(x, weight.shape, weight, self._spec.norm_eps)


class TorchHead:
    """Final norm and LM head, on the coordinator."""

    def __init__(self, spec: ModelSpec, geometry: UnitGeometry, final_norm: F32) -> None:
        self._geometry = geometry
        self._vocab_size = spec.vocab_size
        self._norm = torch.from_numpy(final_norm)
        self._norm_eps = spec.norm_eps

    def prepare(self, units: U8, first_unit: int) -> Tensor:
        """[rows, hidden] fp32"""
        first_row = first_unit * self._geometry.matrix("rows").rows
        return torch.from_numpy(join_units(units, self._geometry, "rows")[: self._vocab_size - first_row])

    @torch.inference_mode()
    def logits(self, weights: Tensor, hidden: F32) -> F32:
        """hidden [n, hidden] fp32 -> [n, rows of the slice] fp32"""
        normed = functional.rms_norm(torch.from_numpy(hidden), self._norm.shape, self._norm, self._norm_eps)
        logits: F32 = functional.linear(normed, weights).numpy()
        return logits


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
