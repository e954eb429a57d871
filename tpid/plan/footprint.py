"""What a share takes in memory, by the backend that holds it; all in bytes.

A rank's memory is what it needs whatever streams (interpreter, text, KV cache, activations) and room for weights:
all of them, or a window through which the rest comes from disk with every pass.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from tpid.model.spec import ModelSpec
from tpid.model.weights import GROUPED, Format
from tpid.pack.geometry import TILE_COLUMNS, TILE_ROWS, Block, Half, Share, ffn_unit_columns
from tpid.pack.manifest import Manifest


@dataclass(frozen=True, slots=True)
class BackendCost:
    """What a backend takes of memory."""

    weight_bytes: int | None  # a weight; None: as the pack holds it
    kv_value_bytes: int
    base_bytes: int  # interpreter and libraries of a daemon before any weight
    kv_scale_bytes: int = 0  # of a group of a head's values


# Measured on Linux x86-64 with Python 3.11. An idle native daemon has 78 MB resident, 47 of them its own and the
# rest pages of libraries; the remainder is for connections, threads and what the allocator keeps.
BACKENDS: Mapping[str, BackendCost] = {
    "torch": BackendCost(weight_bytes=4, kv_value_bytes=4, base_bytes=320 << 20),
    "native": BackendCost(weight_bytes=None, kv_value_bytes=2, base_bytes=100 << 20),
    "native-kv8": BackendCost(weight_bytes=None, kv_value_bytes=1, base_bytes=100 << 20, kv_scale_bytes=2),
}
# What a tokenizer takes at its peak, when it is parsed, beside the size of tokenizer.json. Measured: 40 MB for a file
# of 1.6 MB, 115 for 9.9, 207 for 15.1.
TEXT_BASE_BYTES = 20 << 20
TEXT_PER_TOKENIZER_BYTE = 14

_TORCH_COPIES = 8  # fp32 buffers of [max_pass_tokens, hidden or FFN slice] alive at once
_TORCH_SCORE_BYTES = 5  # a mask as bool and as fp32, of each key for each query of a KV group
# What the native backend keeps of one token and 32 inputs for matrices of that kind (tiles.h): two planes of int8, as
# by default; a device with activation_bits = 8 takes less.
_ACTIVATION_TILE_BYTES: Mapping[Format, int] = {format: 96 if format in GROUPED else 128 for format in Format}
_KV_ALIGN = 16  # KEY_BLOCK and HEAD_ALIGN of kernels.h
_KV_GROUP = 32  # CACHE_GROUP
_HEAD_TOKENS = 8  # rows that the head takes at once


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be held, apart from how it is divided."""

    spec: ModelSpec
    n_attn_units: int
    n_ffn_units: int
    attn_unit_weights: int  # weights of one unit in one layer
    ffn_unit_weights: int
    attn_unit_packed_bytes: int  # of one unit in all layers, as the pack holds it
    ffn_unit_packed_bytes: int
    attn_unit_largest_bytes: int  # of one unit in the layer where it is largest, as the pack holds it
    ffn_unit_largest_bytes: int
    head_packed_bytes: int
    head_unit_packed_bytes: int  # of the rows that stream together
    activation_tile_bytes: int  # what the native backend keeps of one token and 32 inputs
    context_tokens: int
    n_slots: int
    max_pass_tokens: int
    tokenizer_bytes: int = 0  # size of tokenizer.json
    n_workers: int = 0  # ranks beside the coordinator, which has a receive buffer for each
    wire_row_bytes: int = 0  # of a token's activations on the wire

    @property
    def layer_weights(self) -> int:
        return self.n_attn_units * self.attn_unit_weights + self.n_ffn_units * self.ffn_unit_weights


def workload_of(
    manifest: Manifest,
    *,
    context_tokens: int,
    n_slots: int,
    max_pass_tokens: int,
    tokenizer_bytes: int = 0,
    n_workers: int = 0,
    wire_row_bytes: int = 0,
) -> Workload:
    attn, ffn = (manifest.geometry(Block(0, half)) for half in (Half.ATTN, Half.FFN))
    attn_bytes, ffn_bytes = (_stride_bytes(manifest, half) for half in (Half.ATTN, Half.FFN))
    formats = {format for block in manifest.blocks() for format in manifest.entry(block).formats.values()}
    return Workload(
        spec=manifest.spec,
        n_attn_units=attn.n_units,
        n_ffn_units=ffn.n_units,
        attn_unit_weights=attn.weights_per_unit,
        ffn_unit_weights=ffn.weights_per_unit,
        attn_unit_packed_bytes=sum(attn_bytes),
        ffn_unit_packed_bytes=sum(ffn_bytes),
        attn_unit_largest_bytes=max(attn_bytes),
        ffn_unit_largest_bytes=max(ffn_bytes),
        head_packed_bytes=manifest.head_geometry.size_bytes,
        head_unit_packed_bytes=manifest.head_geometry.stride_bytes,
        activation_tile_bytes=sum({_ACTIVATION_TILE_BYTES[format] for format in formats}),
        context_tokens=context_tokens,
        n_slots=n_slots,
        max_pass_tokens=max_pass_tokens,
        tokenizer_bytes=tokenizer_bytes,
        n_workers=n_workers,
        wire_row_bytes=wire_row_bytes,
    )


def _stride_bytes(manifest: Manifest, half: Half) -> list[int]:
    """Of one unit, layer by layer: their formats may differ."""
    return [manifest.geometry(Block(layer, half)).stride_bytes for layer in range(manifest.spec.n_layers)]


# --- weights


def attn_weight_bytes(work: Workload, backend: str) -> int:
    """The weights of one KV group in all layers: what a decode step reads of them."""
    weight_bytes = BACKENDS[backend].weight_bytes
    if weight_bytes is None:
        return work.attn_unit_packed_bytes
    return work.spec.n_layers * work.attn_unit_weights * weight_bytes


def ffn_weight_bytes(work: Workload, backend: str) -> int:
    """The weights of one slice of FFN columns in all layers."""
    weight_bytes = BACKENDS[backend].weight_bytes
    if weight_bytes is None:
        return work.ffn_unit_packed_bytes
    return work.spec.n_layers * work.ffn_unit_weights * weight_bytes


def head_bytes(work: Workload, backend: str) -> int:
    weight_bytes = BACKENDS[backend].weight_bytes
    if weight_bytes is None:
        return work.head_packed_bytes
    return work.spec.vocab_size * work.spec.hidden_size * weight_bytes


def weights_bytes(work: Workload, backend: str, n_attn: int, n_ffn: int, *, coordinator: bool) -> int:
    """All weights of a share in memory: the head is one block more, on the coordinator."""
    layers = n_attn * attn_weight_bytes(work, backend) + n_ffn * ffn_weight_bytes(work, backend)
    return layers + (head_bytes(work, backend) if coordinator else 0)


def packed_bytes(work: Workload, n_attn: int, n_ffn: int, *, coordinator: bool) -> int:
    """The same on disk."""
    layers = n_attn * work.attn_unit_packed_bytes + n_ffn * work.ffn_unit_packed_bytes
    return layers + (work.head_packed_bytes if coordinator else 0)


def window_bytes(work: Workload, backend: str, n_attn: int, n_ffn: int, *, coordinator: bool) -> int:
    """The smallest window: two of the largest blocks that follow each other, one computed with and one read.

    A backend that unpacks weights has both unpacked as well, while the one gives way to the other.
    """
    slices = work.head_packed_bytes // work.head_unit_packed_bytes
    packed = _largest_pair(
        n_attn * work.attn_unit_largest_bytes,
        n_ffn * work.ffn_unit_largest_bytes,
        work.head_unit_packed_bytes if coordinator else 0,
    )
    weight_bytes = BACKENDS[backend].weight_bytes
    if weight_bytes is None:
        return packed
    head_weights = -(-work.spec.vocab_size * work.spec.hidden_size // slices) if coordinator else 0
    unpacked = _largest_pair(n_attn * work.attn_unit_weights, n_ffn * work.ffn_unit_weights, head_weights)
    return packed + weight_bytes * unpacked


def _largest_pair(attn: int, ffn: int, head_slice: int) -> int:
    """Of the blocks of a pass that follow each other; the head's slices come last and meet the first block again."""
    layers = attn + ffn if attn and ffn else 2 * max(attn, ffn)
    return max(layers, max(attn, ffn) + head_slice, 2 * head_slice)


# --- all else


def kv_bytes(work: Workload, backend: str, n_attn: int) -> int:
    cost, positions, width = BACKENDS[backend], work.context_tokens, work.spec.head_dim
    if backend != "torch":
        positions, width = _up_to(positions, _KV_ALIGN), _up_to(width, _KV_ALIGN)
    vector = width * cost.kv_value_bytes + -(-width // _KV_GROUP) * cost.kv_scale_bytes
    return n_attn * 2 * work.spec.n_layers * work.n_slots * positions * vector + _turn_bytes(work, backend, n_attn)


def _turn_bytes(work: Workload, backend: str, n_attn: int) -> int:
    """The angles by which an int8 cache's keys get their biases back: of each block of positions, and within one."""
    if backend != "native-kv8" or not n_attn or work.spec.key_bias_rope is None:
        return 0
    blocks = -(-work.context_tokens // _KV_ALIGN)
    return (blocks + _KV_ALIGN) * 4 * work.spec.head_dim


def activation_bytes(work: Workload, backend: str, n_attn: int, n_ffn: int, *, coordinator: bool) -> int:
    """Buffers of a pass of `max_pass_tokens`, of the backend, the pass and the allreduce."""
    spec = work.spec
    if backend == "torch":
        scores = work.context_tokens * spec.heads_per_group * _TORCH_SCORE_BYTES
        token = _TORCH_COPIES * 4 * max(spec.hidden_size, spec.ffn_size) + scores
    else:
        token = _native_token_bytes(work, n_attn, n_ffn)
    token += _pass_token_bytes(work, coordinator)
    logits = 4 * (spec.vocab_size + _HEAD_TOKENS * spec.hidden_size) if coordinator else 0
    return work.max_pass_tokens * token + logits


def fixed_bytes(work: Workload, backend: str, n_attn: int, n_ffn: int, *, coordinator: bool) -> int:
    """All but weights."""
    text = TEXT_BASE_BYTES + TEXT_PER_TOKENIZER_BYTE * work.tokenizer_bytes if coordinator else 0
    return (
        BACKENDS[backend].base_bytes
        + text
        + kv_bytes(work, backend, n_attn)
        + activation_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator)
    )


def least_bytes(work: Workload, backend: str, n_attn: int, n_ffn: int, *, coordinator: bool) -> int:
    """With less a share cannot be computed, however much of it streams."""
    return fixed_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator) + min(
        window_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator),
        weights_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator),
    )


def share_bytes(work: Workload, backend: str, share: Share, *, coordinator: bool) -> int:
    """With all of it resident."""
    n_attn, n_ffn = len(share.attn), len(share.ffn)
    fixed = fixed_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator)
    return fixed + weights_bytes(work, backend, n_attn, n_ffn, coordinator=coordinator)


def weight_room_bytes(work: Workload, backend: str, share: Share, memory_bytes: int, *, coordinator: bool) -> int:
    """What of a rank's memory is left for resident weights and the window; the head is among what streams."""
    return memory_bytes - fixed_bytes(work, backend, len(share.attn), len(share.ffn), coordinator=coordinator)


def _native_token_bytes(work: Workload, n_attn: int, n_ffn: int) -> int:
    """As tpid_backend_create takes them, but for what it never touches."""
    spec = work.spec
    queries = spec.heads_per_group * spec.head_dim
    attn_tiles = n_attn * _up_to(queries, TILE_COLUMNS) // TILE_COLUMNS
    ffn_tiles = n_ffn * ffn_unit_columns(spec.ffn_size) // TILE_COLUMNS
    tiles = _up_to(spec.hidden_size, TILE_COLUMNS) // TILE_COLUMNS + max(attn_tiles, ffn_tiles)
    qkv = _up_to(queries, TILE_ROWS) + 2 * _up_to(spec.head_dim, TILE_ROWS)
    angles = 4 * spec.head_dim * len(spec.ropes)  # cosines and sines of half the head, here and on the way from numpy
    return tiles * work.activation_tile_bytes + 4 * (n_attn * (qkv + queries) + angles)


def _pass_token_bytes(work: Workload, coordinator: bool) -> int:
    """The residual stream and two partials; the embedded rows once more; with other ranks, what the star holds."""
    row, wire = 4 * work.spec.hidden_size, work.wire_row_bytes
    if coordinator and work.n_workers == 0:
        return 4 * row
    sums = 2 * row
    buffers = (1 + work.n_workers) * wire if coordinator else 3 * wire
    return 4 * row + sums + buffers


def _up_to(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple
