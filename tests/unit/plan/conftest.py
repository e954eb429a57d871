"""Devices and workloads as hypothesis draws them, from tiny to absurd."""

from collections.abc import Callable
from typing import Any

import pytest

from tests.unit.specs import SMOLLM2
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.plan.footprint import Workload

PACK = "ab" * 32


@pytest.fixture(scope="session")
def device() -> Callable[..., DeviceProfile]:
    """`device(number, **fields)`: with the pack, 100 GB of budget, 10 GB/s of memory and 1 of disk."""

    def make(number: int, **fields: Any) -> DeviceProfile:
        values: dict[str, Any] = {
            "id": DeviceId(f"{number:064x}"),
            "name": f"device-{number}",
            "role": Role.USER,
            "version": "0",
            "ram_bytes": 200 * 10**9,
            "budget_bytes": 100 * 10**9,
            "disk_free_bytes": 10**9,
            "threads": 4,
            "read_bytes_s": 1e10,
            "backend": "torch",
            "packs": (PACK,),
            "disk_bytes_s": 1e9,
            "matmul_flops_s": 1e11,
        }
        return DeviceProfile(**(values | fields))

    return make


@pytest.fixture(scope="session")
def workload() -> Callable[..., Workload]:
    """`workload(**fields)`: SmolLM2 135M."""

    def make(**fields: Any) -> Workload:
        values: dict[str, Any] = {
            "spec": SMOLLM2,
            "n_attn_units": 3,
            "n_ffn_units": 48,
            "attn_unit_weights": 576 * (192 + 64 + 64 + 192),
            "ffn_unit_weights": 576 * 32 * 3,
            "attn_unit_packed_bytes": 30 * 188416,
            "ffn_unit_packed_bytes": 30 * 36864,
            "attn_unit_largest_bytes": 188416,
            "ffn_unit_largest_bytes": 36864,
            "head_packed_bytes": 96 * 184320,
            "head_unit_packed_bytes": 184320,
            "activation_tile_bytes": 96,
            "context_tokens": 4096,
            "n_slots": 1,
            "max_pass_tokens": 128,
        }
        return Workload(**(values | fields))

    return make
