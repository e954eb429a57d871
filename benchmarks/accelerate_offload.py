"""Accelerate's disk offload of a model in a published shape, float16 on the CPU: a prompt, then tokens one by one.

    python benchmarks/accelerate_offload.py CHECKPOINT --make tinyllama-1.1b [--layers N]
    python benchmarks/accelerate_offload.py CHECKPOINT --memory 1500000000 --threads 2 --tokens 3

The layers that fit the budget stay in memory, as `device_map="auto"` decides; the others are read from the checkpoint's
safetensors with every token. benchmarks/streaming.py runs it in a memory cgroup.
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch
from accelerate import infer_auto_device_map, init_empty_weights, load_checkpoint_and_dispatch
from transformers import LlamaConfig, LlamaForCausalLM

from shapes import SHAPES
from streamed import PROMPT_TOKENS, WARM_TOKENS, disk_read_bytes

DTYPE = torch.float16
# Interpreter, torch, transformers, activations, and a layer on its way from disk: what is not resident weights.
BASE_BYTES = 1_150_000_000
SHARD = "200MB"


def make(shape: str, layers: int | None, target: Path) -> None:
    more = {} if layers is None else {"num_hidden_layers": layers}
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**{**SHAPES[shape], **more}, torch_dtype=DTYPE)).to(DTYPE)
    model.save_pretrained(target, max_shard_size=SHARD)


def offloaded(checkpoint: Path, memory_bytes: int) -> tuple[Any, int]:
    """The model, and the bytes of it that are read anew with every token."""
    config = LlamaConfig.from_pretrained(checkpoint)
    with init_empty_weights():
        model = LlamaForCausalLM(config).to(DTYPE)
    room = {"cpu": max(memory_bytes - BASE_BYTES, 0)}
    places = infer_auto_device_map(model, room, no_split_module_classes=["LlamaDecoderLayer"], dtype=DTYPE)
    sizes = {name: tensor.numel() * DTYPE.itemsize for name, tensor in model.named_parameters()}
    on_disk = tuple(f"{module}." if module else "" for module, place in places.items() if place == "disk")
    streamed = sum(size for name, size in sizes.items() if name.startswith(on_disk)) if on_disk else 0
    loaded = load_checkpoint_and_dispatch(
        model, str(checkpoint), device_map=places, offload_folder=str(checkpoint / "offload"), dtype=DTYPE
    )
    return loaded.eval(), streamed


@torch.inference_mode()
def measure(checkpoint: Path, memory_bytes: int, tokens: int) -> dict[str, Any]:
    model, streamed = offloaded(checkpoint, memory_bytes)
    started = time.perf_counter()
    ids = torch.tensor([[7 * i % model.config.vocab_size for i in range(PROMPT_TOKENS)]])
    out = model(ids, use_cache=True, logits_to_keep=1)
    ttft_s = time.perf_counter() - started
    each_s, read = [], 0
    for number in range(WARM_TOKENS + tokens):
        if number == WARM_TOKENS:
            read = disk_read_bytes()
        started = time.perf_counter()
        id = out.logits[:, -1:].argmax(-1)
        out = model(id, past_key_values=out.past_key_values, use_cache=True)
        each_s.append(time.perf_counter() - started)
    return {
        "tpot_s": statistics.median(each_s[WARM_TOKENS:]),
        "ttft_s": ttft_s,
        "read_bytes": (disk_read_bytes() - read) / tokens,
        "streamed_bytes": streamed,
        "stall_s": 0.0,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("--make", choices=sorted(SHAPES), help="write random weights in that shape there")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--memory", type=int, default=1 << 40, help="bytes")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=3)
    arguments = parser.parse_args()
    if arguments.make:
        make(arguments.make, arguments.layers, arguments.checkpoint)
        return 0
    torch.set_num_threads(arguments.threads)
    print(json.dumps(measure(arguments.checkpoint, arguments.memory, arguments.tokens)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
