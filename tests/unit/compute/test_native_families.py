"""The native backend against transformers: what families have beyond Llama's block, with every set of kernels."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ranks import even_shares, native_ranks
from tests.unit.compute.architectures import (
    F16_TOLERANCE,
    INT8_CACHE_TOLERANCE,
    WAYS,
    judge,
    relative_error,
)
from tpid.compute.native.library import kernel_names, load
from tpid.pack.reader import Pack

LIBRARY = load()
if LIBRARY is None:
    pytest.skip("the native kernels are not built", allow_module_level=True)


@pytest.mark.parametrize(
    "architecture", ["llama-yarn", "qwen2-yarn", "gemma2", "gemma3", "phi3-long", "smollm3", "granite", "glm4"]
)
def test_logits_equal_transformers(
    architecture: str, random_model: Callable[..., Path], pack_of: Callable[..., Pack]
) -> None:
    directory, ids, expected = judge(architecture, random_model)
    pack = pack_of(directory)
    for world_size, kernels in enumerate(kernel_names(LIBRARY), 1):
        shares = even_shares(pack, min(world_size, 3))
        ranks = native_ranks(pack, shares, kernels=kernels)
        for way, chunks in WAYS.items():
            assert relative_error(ranks.logits(ids, chunks), expected) <= F16_TOLERANCE, (kernels, way)
        ranks = native_ranks(pack, shares, kernels=kernels, int8_cache=True)
        assert relative_error(ranks.logits(ids, WAYS["decode"]), expected) <= INT8_CACHE_TOLERANCE, kernels
