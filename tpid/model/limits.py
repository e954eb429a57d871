"""How large a model's numbers may be: far above any published model, far below what would harm a device."""

from tpid.errors import ModelFileError
from tpid.model.spec import ModelSpec

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


def check_spec(spec: ModelSpec, where: str) -> None:
    """What the bounds of single numbers do not say. Raises ModelFileError."""
    if spec.n_heads % spec.n_kv_heads:
        raise ModelFileError(f"{where}: {spec.n_heads} heads cannot be divided among {spec.n_kv_heads} KV heads.")
    if spec.head_dim % 2:
        raise ModelFileError(f"{where}: a head of {spec.head_dim} dimensions is odd, RoPE turns pairs of them.")
    factors = spec.rope.factors
    if factors is None:
        return
    if len(factors) != spec.head_dim // 2:
        raise ModelFileError(f"{where}: {len(factors)} RoPE factors do not fit {spec.head_dim // 2} pairs.")
    if not all(MIN_ROPE_FACTOR <= factor <= MAX_ROPE_FACTOR for factor in factors):
        raise ModelFileError(f"{where}: a RoPE factor is not a number from {MIN_ROPE_FACTOR:g} to {MAX_ROPE_FACTOR:g}.")
