"""One policy over one pack, in this process: a prompt, then tokens one by one; prints what they took as JSON.

    python benchmarks/streamed.py PACK --policy ours --memory 1000000000 --context 512 --threads 2 --tokens 8

benchmarks/streaming.py runs it in a memory cgroup. Bytes from the disk are the kernel's count for this process.
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
from tpid.engine.session import Session
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
    ) as session:
        load_s = time.perf_counter() - started
        started = time.perf_counter()
        logits = await session.extend(prompt_ids(session, min(PROMPT_TOKENS, session.plan.context_tokens // 2)))
        ttft_s = time.perf_counter() - started
        for _ in range(WARM_TOKENS):
            logits = await session.extend([int(logits.argmax())])
        found = await decode(session, int(logits.argmax()), arguments.tokens)
        del text
        plan = session.plan
        return found | {
            "load_s": load_s,
            "ttft_s": ttft_s,
            "pass_tokens": plan.max_pass_tokens,
            "planned_bytes": plan.ranks[0].memory_bytes,
        }


async def decode(session: Session, id: int, tokens: int) -> dict[str, Any]:
    share = session._share  # noqa: SLF001
    weights, traffic = share._weights.plan, share._weights.traffic  # noqa: SLF001
    ids, each_s, stall_s = [], [], []
    disk_s, streamed, read = traffic.disk_s, traffic.read_bytes, disk_read_bytes()
    for _ in range(tokens):
        stalled_s, started = traffic.stall_s, time.perf_counter()
        id = int((await session.extend([id])).argmax())
        each_s.append(time.perf_counter() - started)
        stall_s.append(traffic.stall_s - stalled_s)
        ids.append(id)
    disk_s = traffic.disk_s - disk_s
    return {
        "tpot_s": statistics.median(each_s),
        "tokens_s": each_s,
        "stall_s": statistics.median(stall_s),
        "disk_bytes_s": (traffic.read_bytes - streamed) / disk_s if disk_s else None,
        "read_bytes": (disk_read_bytes() - read) / tokens,  # by the kernel's count, a token
        "streamed_bytes": weights.streamed_bytes,  # by plan
        "resident_bytes": weights.resident_bytes,
        "window_bytes": weights.window_bytes,
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
    arguments = parser.parse_args()
    try:
        print(json.dumps(uvloop.run(measure(Pack(arguments.pack), arguments))))
    except TpidError as error:
        print(error.message, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
