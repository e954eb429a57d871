"""What starts fast must not load what is slow."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("module", "forbidden"),
    [
        ("tpictl.main", {"torch", "numpy", "aiohttp", "pydantic", "zeroconf", "safetensors", "tokenizers"}),
        ("tpid.model.gguf.container", {"torch", "aiohttp", "zeroconf", "tokenizers"}),
        ("tpid.pack.import_command", {"torch", "aiohttp", "zeroconf", "asyncio"}),
        ("tpid.plan.partition", {"torch", "aiohttp", "zeroconf", "asyncio"}),
        ("tpid.memory.weights", {"torch", "aiohttp", "zeroconf"}),
        ("tpid.daemon.config", {"torch", "aiohttp", "zeroconf", "numpy"}),
        ("tpid.comm.star", {"torch", "aiohttp", "zeroconf"}),
    ],
)
def test_a_module_imports_alone_and_without_what_it_does_not_need(module: str, forbidden: set[str]) -> None:
    code = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert forbidden.isdisjoint(result.stdout.split())
    assert result.stderr == ""
