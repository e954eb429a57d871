"""One device alone, in a process of its own, as the daemon runs it: its session without network and API.

    python benchmarks/alone.py PACK --threads N [--activation-bits 8]

Loads the pack, then answers each line of JSON on stdin, a test, by one on stdout: how long it took. A token of decode
is all that a daemon does for it: embedding row, every layer through the driver of passes, head, greedy choice.
"""

import argparse
import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import uvloop

from tpid.compute.select import choose_compute
from tpid.daemon.config import Config
from tpid.device import DeviceId
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.loaded import load_head, load_share
from tpid.engine.session import Session
from tpid.model.sampling import Sampler, SamplingParams
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.reader import Pack
from tpid.plan.plan import Plan, Rank


@asynccontextmanager
async def alone(pack: Pack, threads: int, activation_bits: int) -> AsyncIterator[Session]:
    """A plan of one rank on the native backend, with the daemon's default context and prefill."""
    compute = choose_compute("native", threads, activation_bits)
    n_units = {half: pack.geometry(Block(0, half)).n_units for half in Half}
    share = Share(UnitRange(0, n_units[Half.ATTN]), UnitRange(0, n_units[Half.FFN]))
    plan = Plan(
        term=1,
        pack=pack.id,
        model=pack.name,
        ranks=(Rank(DeviceId("0" * 32), "alone", share, 0),),
        left_out=(),
        context_tokens=min(pack.spec.context_tokens, int(Config.model_fields["context_tokens"].default)),
        max_pass_tokens=int(Config.model_fields["prefill_tokens"].default),
        n_slots=1,
        wire_dtype="fp32",
    )
    calls = ComputeCalls()
    loaded, head = await load_share(compute, pack, plan, 0), await load_head(compute, pack)
    session = Session(pack, plan, loaded, head, workers={}, elsewhere={}, calls=calls)
    try:
        yield session
    finally:
        session.close()
        calls.close()


async def decode_s(session: Session, tokens: int, depth: int) -> float:
    """Seconds for `tokens` of an answer that begins `depth` tokens into the context."""
    sampler = Sampler(SamplingParams())
    sequence = prompt_ids(session, max(depth, 1))
    await fill(session, sequence[:-1])
    id = sampler.sample(await session.extend(sequence[-1:]), sequence)
    started = time.perf_counter()
    for _ in range(tokens):
        sequence.append(id)
        id = sampler.sample(await session.extend([id]), sequence)
    return time.perf_counter() - started


async def prefill_s(session: Session, tokens: int, depth: int) -> float:
    """Seconds from a prompt of `tokens` behind `depth` others to the first token of the answer."""
    sequence = prompt_ids(session, depth + tokens)
    await fill(session, sequence[:depth])
    started = time.perf_counter()
    Sampler(SamplingParams()).sample(await session.extend(sequence[depth:]), sequence)
    return time.perf_counter() - started


async def fill(session: Session, ids: list[int]) -> None:
    """Have these, and nothing else, in the KV cache; tests of one depth compute them once."""
    if session.cached_ids[: len(ids)] == ids:
        session.rewind(len(ids))
        return
    session.rewind(0)
    await session.extend(ids)


def prompt_ids(session: Session, n_tokens: int) -> list[int]:
    return [7 * i % session.pack.spec.vocab_size for i in range(n_tokens)]


async def serve(pack: Pack, threads: int, activation_bits: int) -> None:
    async with alone(pack, threads, activation_bits) as session:
        print(json.dumps({"ready": pack.name}), flush=True)
        for line in sys.stdin:
            test = json.loads(line)
            run = decode_s if test["kind"] == "decode" else prefill_s
            took_s = await run(session, test["tokens"], test["depth"])
            print(json.dumps({"tokens_s": test["tokens"] / took_s}), flush=True)
            await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--activation-bits", type=int, choices=(8, 16), default=16)
    arguments = parser.parse_args()
    uvloop.run(serve(Pack(arguments.pack), arguments.threads, arguments.activation_bits))


if __name__ == "__main__":
    main()
