"""Which backend this device computes with, and what it loses if that is not the native one."""

import logging
from typing import Any, Protocol

from tpid.compute.backend import Backend, Head
from tpid.errors import ConfigError, TpidError
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32
from tpid.pack.geometry import Share, UnitGeometry

log = logging.getLogger(__name__)


class Compute(Protocol):
    """Makes what a rank computes with."""

    @property
    def name(self) -> str: ...

    @property
    def kernels(self) -> str:
        """The instruction set that is used, for people."""
        ...

    def backend(
        self, spec: ModelSpec, share: Share, *, n_slots: int, context_tokens: int, max_tokens: int
    ) -> Backend[Any]: ...

    def head(self, spec: ModelSpec, geometry: UnitGeometry, final_norm: F32) -> Head[Any]: ...

    def measure_read_bytes_s(self) -> float:
        """Bytes of weights a second in a matrix-vector product, as decode reads them."""
        ...

    def measure_matmul_flops_s(self) -> float:
        """Multiplications and additions a second in a product with many tokens, as prefill does it."""
        ...


def choose_compute(wanted: str, n_threads: int, activation_bits: int = 16, kv_dtype: str = "f16") -> Compute:
    """`wanted` is "auto", "native" or "torch"; `activation_bits` are 8 or 16, `kv_dtype` is "f16" or "int8".

    Only what is chosen is imported. Raises ConfigError where it was not built or is not installed.
    """
    if wanted != "torch":
        from tpid.compute.native_compute import NativeCompute  # noqa: PLC0415

        try:
            compute = NativeCompute(n_threads, activation_bits, kv_dtype)
        except TpidError as error:
            if wanted == "native":
                raise ConfigError(f"The native backend cannot be used: {error.message}", hint=error.hint) from error
            log.warning(
                "native_missing reason=%r cost=%r",
                error.message,
                "torch instead: slower by several times, and 4 bytes a weight instead of the pack's",
            )
        else:
            log.info("backend name=%s kernels=%s threads=%d", compute.name, compute.kernels, n_threads)
            return compute
    try:
        from tpid.compute.torch_compute import TorchCompute  # noqa: PLC0415
    except ModuleNotFoundError as error:
        kernels = "torch is not installed" if wanted == "torch" else "neither kernels nor torch are there"
        raise ConfigError(
            f"This device cannot compute: {kernels}.",
            hint="Install a C compiler and then tpid again, which builds the kernels; or install tpid[torch].",
        ) from error
    return TorchCompute(n_threads)
