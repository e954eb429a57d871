"""What a share takes in memory, by the backend that holds it."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpid.model.spec import ModelSpec
from tpid.pack.geometry import Block, Half, Share
from tpid.pack.manifest import Manifest

WEIGHT_BYTES: Mapping[str, int] = {"torch": 4}  # fp32 after dequantizing
KV_BYTES: Mapping[str, int] = {"torch": 4}
# Interpreter and libraries of a daemon, measured on Linux x86-64 with torch 2.13; before any weight.
BASE_BYTES: Mapping[str, int] = {"torch": 320 << 20}
ACTIVATION_COPIES = 8  # fp32 buffers of [max_pass_tokens, hidden or FFN slice] alive at once


@dataclass(frozen=True, slots=True)
class Workload:
    """What is to be held, apart from how it is divided."""

    spec: ModelSpec
    n_attn_units: int
    n_ffn_units: int
    attn_unit_weights: int  # weights of one unit in one layer
    ffn_unit_weights: int
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
        context_tokens=context_tokens,
        n_slots=n_slots,
        max_pass_tokens=max_pass_tokens,
    )


def attn_unit_bytes(work: Workload, backend: str) -> int:
    """One KV group in all layers: its weights and its KV cache."""
    kv_values = 2 * work.n_slots * work.context_tokens * work.spec.head_dim
    per_layer = work.attn_unit_weights * WEIGHT_BYTES[backend] + kv_values * KV_BYTES[backend]
    return work.spec.n_layers * per_layer


def ffn_unit_bytes(work: Workload, backend: str) -> int:
    """One slice of FFN columns in all layers."""
    return work.spec.n_layers * work.ffn_unit_weights * WEIGHT_BYTES[backend]


def fixed_bytes(work: Workload, backend: str, *, coordinator: bool) -> int:
    """What a device takes before it has a single unit; the coordinator holds the head as well."""
    spec = work.spec
    activations = ACTIVATION_COPIES * 4 * work.max_pass_tokens * max(spec.hidden_size, spec.ffn_size)
    head = spec.vocab_size * spec.hidden_size * WEIGHT_BYTES[backend] if coordinator else 0
    return BASE_BYTES[backend] + activations + head


def share_bytes(work: Workload, backend: str, share: Share, *, coordinator: bool) -> int:
    return (
        fixed_bytes(work, backend, coordinator=coordinator)
        + len(share.attn) * attn_unit_bytes(work, backend)
        + len(share.ffn) * ffn_unit_bytes(work, backend)
    )
