"""How large a model's numbers may be: far above any published model, far below what would harm a device."""

from tpid.errors import ModelFileError
from tpid.model.spec import ModelSpec, Rope

MAX_HIDDEN = 1 << 17
MAX_LAYERS = 1024
MAX_HEADS = 4096
MAX_HEAD_DIM = 1024
MAX_FFN = 1 << 20
MAX_VOCAB = 1 << 22
MAX_CONTEXT_TOKENS = 1 << 30
MIN_NORM_EPS, MAX_NORM_EPS = 1e-12, 1e-2
MIN_ROPE_THETA, MAX_ROPE_THETA = 1.0, 1e12
MIN_ROPE_FACTOR, MAX_ROPE_FACTOR = 1e-3, 1e6
MIN_SCALE, MAX_SCALE = 1e-6, 1e6  # of attention, embedding, residual stream, logits, and of soft caps


def check_spec(spec: ModelSpec, where: str) -> None:
    """What the bounds of single numbers do not say. Raises ModelFileError."""
    if spec.n_heads % spec.n_kv_heads:
        raise ModelFileError(f"{where}: {spec.n_heads} heads cannot be divided among {spec.n_kv_heads} KV heads.")
    if spec.head_dim % 2:
        raise ModelFileError(f"{where}: a head of {spec.head_dim} dimensions is odd, RoPE turns pairs of them.")
    if not 1 <= len(spec.pattern) <= spec.n_layers:
        raise ModelFileError(f"{where}: {len(spec.pattern)} kinds of layers do not fit {spec.n_layers} layers.")
    for rope in spec.ropes:
        _check_rope(rope, spec.head_dim, where)


def _check_rope(rope: Rope, head_dim: int, where: str) -> None:
    rotary_dims = head_dim if rope.rotary_dims is None else rope.rotary_dims
    if rotary_dims % 2 or not 0 < rotary_dims <= head_dim:
        raise ModelFileError(f"{where}: RoPE turns pairs of dimensions, not {rotary_dims} of {head_dim}.")
    for factors in (rope.factors, rope.long_factors):
        if factors is None:
            continue
        if len(factors) != rotary_dims // 2:
            raise ModelFileError(f"{where}: {len(factors)} RoPE factors do not fit {rotary_dims // 2} pairs.")
        if not all(MIN_ROPE_FACTOR <= factor <= MAX_ROPE_FACTOR for factor in factors):
            raise ModelFileError(
                f"{where}: a RoPE factor is not a number from {MIN_ROPE_FACTOR:g} to {MAX_ROPE_FACTOR:g}."
            )
