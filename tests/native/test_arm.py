"""The kernels for ARM, built by a cross compiler and run by an emulator of processors with and without sdot."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

PROCESSORS = {
    "cortex-a53": ["neon", "portable"],  # Raspberry Pi 3
    "cortex-a72": ["neon", "portable"],  # Raspberry Pi 4
    "cortex-a76": ["neondot", "neon", "portable"],  # Raspberry Pi 5
    "max": ["neondot", "neon", "portable"],
}


@pytest.fixture(scope="module")
def program(build: Callable[..., Path]) -> Path:
    if shutil.which("qemu-aarch64") is None:
        pytest.skip("there is no qemu-aarch64 (make cross-tools installs it)")
    return build("aarch64-linux-gnu-gcc", "-O3", "-static")


@pytest.mark.parametrize("processor", PROCESSORS)
def test_products_and_blocks(processor: str, program: Path, judge: Callable[..., list[str]]) -> None:
    assert judge("qemu-aarch64", "-cpu", processor, str(program)) == PROCESSORS[processor]
