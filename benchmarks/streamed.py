"""One policy over one pack, in this process: a prompt, then tokens one by one; prints what they took as JSON.

    python benchmarks/streamed.py PACK --policy ours --memory 1000000000 --context 512 --threads 2

benchmarks/streaming.py runs it in a memory cgroup. Bytes from the disk are the kernel's count for this process. First
it prints the ranges of the files that stream; between rounds of tokens it says "pause" and waits for a line, so that
the disk alone can be measured meanwhile (--pauses).
"""

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import uvloop

from alone import alone, prompt_ids
from tpid.engine.executor import Executor
from tpid.engine.sequence import TokenSequence
from tpid.engine.text import load_text_model
from tpid.errors import TpidError
from tpid.pack.reader import Pack
from weight_policies import loader_of

PROMPT_TOKENS = 64
WARM_TOKENS = 2


async def measure(pack: Pack, arguments: argparse.Namespace) -> dict[str, Any]:
    text = load_text_model(pack)  # a daemon has it too
    started = time.perf_counter()
    async with alone(
        pack,
        arguments.threads,
        load=loader_of(arguments.policy),
        memory_budget=arguments.memory,
        context_tokens=arguments.context,
    ) as executor:
        load_s = time.perf_counter() - started
        started = time.perf_counter()
        most = min(executor.plan.max_pass_tokens, executor.plan.context_tokens // 2)
        sequence = TokenSequence(prompt_ids(executor, arguments.prompt or most))
        await next_token(executor, sequence)
        ttft_s = time.perf_counter() - started
        for _ in range(WARM_TOKENS):
            await next_token(executor, sequence)
        found = await decode(executor, sequence, arguments.tokens, arguments.pauses)
        del text
        plan = executor.plan
        return found | {
            "load_s": load_s,
            "ttft_s": ttft_s,
            "pass_tokens": plan.max_pass_tokens,
            "planned_bytes": plan.ranks[0].memory_bytes,
        }


async def next_token(executor: Executor, sequence: TokenSequence) -> None:
    """The greedy one."""
    sequence.append(int((await executor.advance(sequence)).argmax()))


async def decode(executor: Executor, sequence: TokenSequence, tokens: int, pauses: int) -> dict[str, Any]:
    weights = executor._share._weights
    plan, traffic = weights.plan, weights.traffic
    ranges = [
        (str(stored.where.path), stored.where.offset, stored.where.size_bytes)
        for stored, resident in zip(weights._items, plan.resident, strict=True)
        if not resident and stored.where.size_bytes
    ]
    print(json.dumps({"ranges": ranges}), flush=True)
    ids, each_s, stall_s, read = [], [], [], 0
    for round in range(pauses + 1):
        if round:
            print(json.dumps({"pause": round}), flush=True)
            sys.stdin.readline()
            await next_token(executor, sequence)  # what was read ahead meanwhile is used up
        read_before = disk_read_bytes()
        for _ in range(-(-tokens // (pauses + 1))):
            stalled_s, started = traffic.stall_s, time.perf_counter()
            await next_token(executor, sequence)
            each_s.append(time.perf_counter() - started)
            stall_s.append(traffic.stall_s - stalled_s)
            ids.append(sequence.ids[-1])
        read += disk_read_bytes() - read_before
    return {
        "tpot_s": statistics.median(each_s),
        "tokens_s": each_s,
        "stall_s": statistics.median(stall_s),
        "read_bytes": read / len(each_s),  # by the kernel's count, a token
        "streamed_bytes": plan.streamed_bytes,  # by plan
        "resident_bytes": plan.resident_bytes,
        "window_bytes": plan.window_bytes,
        "ids": ids,
    }


def disk_read_bytes() -> int:
    """That this process has had the disk read, page faults included."""
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("read_bytes:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/io does not count reads")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--policy", default="ours", help="ours, mmap, window-2, window-4")
    parser.add_argument("--memory", type=int, required=True, help="bytes")
    parser.add_argument("--context", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--pauses", type=int, default=0)
    parser.add_argument("--prompt", type=int, default=PROMPT_TOKENS, help="tokens; 0: as many as a pass may have")
    arguments = parser.parse_args()
    try:
        print(json.dumps(uvloop.run(measure(Pack(arguments.pack), arguments))))
    except TpidError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
