"""What a share takes in memory, by the backend that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpid.model.spec import ModelSpec
from tpid.pack.geometry import Block, Half, Share
from tpid.pack.manifest import Manifest


@dataclass(frozen=True, slots=True)
class BackendCost:
    """What a backend takes of memory."""

    weight_bytes: int | None  # a weight; None: as the pack holds it
    kv_value_bytes: int
    base_bytes: int  # interpreter and libraries of a daemon before any weight, measured on Linux x86-64


BACKENDS: Mapping[str, BackendCost] = {
    "torch": BackendCost(weight_bytes=4, kv_value_bytes=4, base_bytes=320 << 20),
    "native": BackendCost(weight_bytes=None, kv_value_bytes=2, base_bytes=128 << 20),
}
ACTIVATION_COPIES = 8  # fp32 buffers of [max_pass_tokens, hidden or FFN slice] alive at once


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
    head_packed_bytes: int
    context_tokens: int
    n_slots: int
    max_pass_tokens: int

    @property
    def layer_weights(self) -> int:
        return self.n_attn_units * self.attn_unit_weights + self.n_ffn_units * self.ffn_unit_weights


def workload_of(manifest: Manifest, *, context_tokens: int, n_slots: int, max_pass_tokens: int) -> Workload:
    attn, ffn = (manifest.geometry(Block(0, half)) for half in (Half.ATTN, Half.FFN))
    return Workload(
        spec=manifest.spec,
        n_attn_units=attn.n_units,
        n_ffn_units=ffn.n_units,
        attn_unit_weights=attn.weights_per_unit,
        ffn_unit_weights=ffn.weights_per_unit,
        attn_unit_packed_bytes=_stride_bytes(manifest, Half.ATTN),
        ffn_unit_packed_bytes=_stride_bytes(manifest, Half.FFN),
        head_packed_bytes=manifest.head_geometry.size_bytes,
        context_tokens=context_tokens,
        n_slots=n_slots,
        max_pass_tokens=max_pass_tokens,
    )


def _stride_bytes(manifest: Manifest, half: Half) -> int:
    """Of one unit in all layers, whose formats may differ."""
    return sum(manifest.geometry(Block(layer, half)).stride_bytes for layer in range(manifest.spec.n_layers))


def attn_weight_bytes(work: Workload, backend: str) -> int:
    """The weights of one KV group in all layers: what a decode step reads of them."""
    weight_bytes = BACKENDS[backend].weight_bytes
    if weight_bytes is None:
        return work.attn_unit_packed_bytes
    return work.spec.n_layers * work.attn_unit_weights * weight_bytes


def attn_unit_bytes(work: Workload, backend: str) -> int:
    """One KV group in all layers: its weights and its KV cache."""
    kv_values = 2 * work.n_slots * work.context_tokens * work.spec.head_dim
    return attn_weight_bytes(work, backend) + work.spec.n_layers * kv_values * BACKENDS[backend].kv_value_bytes


def ffn_unit_bytes(work: Workload, backend: str) -> int:
    """One slice of FFN columns in all layers."""
    weight_bytes = BACKENDS[backend].weight_bytes
    if weight_bytes is None:
        return work.ffn_unit_packed_bytes
    return work.spec.n_layers * work.ffn_unit_weights * weight_bytes


def layers_bytes(work: Workload, backend: str) -> int:
    """All layers' weights: what one device alone would read for a token."""
    attn = work.n_attn_units * attn_weight_bytes(work, backend)
    return attn + work.n_ffn_units * ffn_unit_bytes(work, backend)


def fixed_bytes(work: Workload, backend: str, *, coordinator: bool) -> int:
    """What a device takes before it has a single unit; the coordinator holds the head as well."""
    spec, cost = work.spec, BACKENDS[backend]
    activations = ACTIVATION_COPIES * 4 * work.max_pass_tokens * max(spec.hidden_size, spec.ffn_size)
    head = 0
    if coordinator:
        per_weight = cost.weight_bytes
        head = work.head_packed_bytes if per_weight is None else spec.vocab_size * spec.hidden_size * per_weight
    return cost.base_bytes + activations + head


def share_bytes(work: Workload, backend: str, share: Share, *, coordinator: bool) -> int:
    return (
        fixed_bytes(work, backend, coordinator=coordinator)
        + len(share.attn) * attn_unit_bytes(work, backend)
        + len(share.ffn) * ffn_unit_bytes(work, backend)
    )
