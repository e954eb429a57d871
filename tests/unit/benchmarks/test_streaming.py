"""The policies that ours is compared with: the same tokens by the same kernels, whatever is in memory."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tpid.compute.native.library import load

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 600,
    "max_position_embeddings": 512,
}

pytestmark = pytest.mark.skipif(load() is None, reason="the native kernels are not built")


@pytest.fixture(scope="module")
def pack(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("streaming")
    config = directory / "shape" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(CONFIG))
    models = directory / "models"
    command = [sys.executable, str(BENCHMARKS / "make_model.py"), str(config), "--format", "f16", "--to", str(models)]
    subprocess.run(command, check=True, capture_output=True)
    return models / "shape-f16"


def decode(pack: Path, policy: str) -> dict[str, Any]:
    command = [sys.executable, str(BENCHMARKS / "streamed.py"), str(pack), "--policy", policy, "--tokens", "4"]
    command += ["--memory", str(1 << 30), "--context", "128", "--prompt", "5", "--pauses", "1"]
    done = subprocess.run(command, input="\n", capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("policy", ["window-2", "window-4", "mmap"])
def test_a_policy_gives_the_tokens_of_all_resident_weights(pack: Path, policy: str) -> None:
    ours, other = decode(pack, "ours"), decode(pack, policy)
    assert other["ids"] == ours["ids"]
    assert len(ours["ids"]) == 4
    assert ours["streamed_bytes"] == 0
    assert other["resident_bytes"] == 0
    assert other["streamed_bytes"] == ours["resident_bytes"]
