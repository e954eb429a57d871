"""Packs of random weights: whole, true to their digests, and computing finite numbers however deep."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpid.compute.backend import BlockBytes
from tpid.compute.forward import forward
from tpid.compute.lockstep import run_lockstep
from tpid.compute.torch_backend import TorchBackend
from tpid.engine.prompt import ChatPrompt
from tpid.engine.text import load_text_model
from tpid.model.batch import Segment
from tpid.model.weights import ROUNDED_TO, Format
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack, read_range
from tpid.pack.verify import verify_pack

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"
CONFIG: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 96,
    "intermediate_size": 200,  # the last FFN unit is padded
    "num_hidden_layers": 80,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,  # units of o are 32 wide
    "vocab_size": 600,  # the last unit of the embedding is padded
    "max_position_embeddings": 64,
}


def make(directory: Path, *options: str, **config: Any) -> Pack:
    path = directory / "shape" / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(CONFIG | config))
    command = [sys.executable, str(BENCHMARKS / "make_model.py"), str(path), "--to", str(directory), *options]
    subprocess.run(command, check=True, capture_output=True)
    (pack,) = (Pack(path) for path in directory.iterdir() if (path / "model.json").exists())
    return pack


def hidden_states(pack: Pack, ids: list[int]) -> np.ndarray:
    """After the last layer, by the torch backend."""
    n_units = {half: pack.geometry(Block(0, half)).n_units for half in Half}
    share = Share(UnitRange(0, n_units[Half.ATTN]), UnitRange(0, n_units[Half.FFN]))
    backend = TorchBackend(pack.spec, share, n_slots=1, context_tokens=len(ids))

    def weights(rank: int, block: Block) -> Any:
        units = read_range(pack.block_range(block, share.of(block.half))).reshape(len(share.of(block.half)), -1)
        return backend.prepare(BlockBytes(block, pack.geometry(block), 0, units, pack.vectors(block.layer)))

    with EmbeddingRows(pack) as embedding:
        walk = forward(backend, pack.spec.n_layers, embedding.gather(ids), (Segment(0, 0, len(ids)),))
    return run_lockstep([walk], weights)[0]


@pytest.mark.parametrize("format", ROUNDED_TO)
def test_a_deep_model_is_sound_and_stays_finite(tmp_path: Path, format: Format) -> None:
    pack = make(tmp_path, "--format", format)
    verify_pack(pack)
    hidden = hidden_states(pack, [300, 1, 599, 42])
    assert np.isfinite(hidden).all()
    deviation = hidden.std()
    assert 1 < deviation < 160  # each of 160 blocks adds something of the size of one, none of them explodes


@pytest.mark.parametrize("format", [Format.W4, Format.F16])
def test_shapes_that_fit_no_tile_are_padded_with_zeros(tmp_path: Path, format: Format) -> None:
    """As an import does it: else a short last unit would add what no weight of the model says."""
    pack = make(tmp_path, "--format", format, num_hidden_layers=1, intermediate_size=201, head_dim=20)
    verify_pack(pack)
    geometry = pack.geometry(Block(0, Half.FFN))
    last = UnitRange(geometry.n_units - 1, geometry.n_units)
    unit = read_range(pack.block_range(Block(0, Half.FFN), last))
    gate = geometry.matrix("gate")
    whole_bands = -(-(201 % gate.rows) // 8)
    used = gate.offset_bytes + whole_bands * gate.band_bytes
    assert unit[:used].any()
    assert not unit[used : gate.offset_bytes + gate.size_bytes].any()


def test_the_same_shape_gives_the_same_pack_and_a_chat_can_be_typed(tmp_path: Path) -> None:
    one, two = (make(tmp_path / name, "--format", "w4", "--layers", "2") for name in ("one", "two"))
    assert one.id == two.id
    assert one.spec.n_layers == 2
    text = load_text_model(one)
    prompt = "Wie spät ist es? 请告诉我 🙂"
    ids = text.encode(ChatPrompt([{"role": "user", "content": prompt}]))
    assert max(ids) < one.spec.vocab_size
    assert prompt in text.tokenizer.decode(ids)
    assert text.tokenizer.vocab_size == one.spec.vocab_size
    assert not text.eos_ids


def test_a_fault_is_one_sentence(tmp_path: Path) -> None:
    command = [sys.executable, str(BENCHMARKS / "make_model.py"), "llama-9", "--to", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "llama-9" in done.stderr
    assert "Traceback" not in done.stderr
