"""One device alone, in a process of its own, as the daemon runs it: its executor without network and API.

    python benchmarks/alone.py PACK --threads N [--activation-bits 8] [--memory 2G]

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
from tempfile import TemporaryDirectory
from typing import Any

import uvloop

from tpid import __version__
from tpid.compute.select import Compute, choose_compute
from tpid.daemon.config import Config
from tpid.daemon.profile import make_profile
from tpid.device import DeviceId, DeviceProfile, Role
from tpid.engine.compute_calls import ComputeCalls
from tpid.engine.executor import Executor
from tpid.engine.loaded import LoadWeights, load_share
from tpid.engine.planning import plan_request
from tpid.engine.sequence import TokenSequence
from tpid.engine.settings import EngineSettings
from tpid.memory.weights import Weights
from tpid.model.sampling import Sampler, SamplingParams
from tpid.pack.reader import Pack
from tpid.pack.store import PackStore
from tpid.plan.network import NO_NETWORK
from tpid.plan.partition import make_plan


@asynccontextmanager
async def alone(
    pack: Pack,
    threads: int,
    activation_bits: int = 16,
    *,
    load: LoadWeights = Weights.load,
    **settings: Any,
) -> AsyncIterator[Executor]:
    """The native backend, planned as a daemon with these `settings` plans. Raises TpidError.

    With a `memory_budget` the disk is measured, and what does not fit streams; without one all weights are in memory.
    """
    config = Config(threads=threads, activation_bits=activation_bits, backend="native", **settings)
    compute = choose_compute(config.backend, config.threads, config.activation_bits)
    if "memory_budget" in settings:
        profile = await asyncio.to_thread(profile_with_disk, config, compute, pack)
    else:
        profile = profile_of(config, compute, pack)
    plan = make_plan(plan_request(pack, _engine_settings(config), 1, NO_NETWORK), profile, [])
    calls = ComputeCalls()
    executor = Executor(
        pack,
        plan,
        await load_share(compute, pack, plan, 0, profile, load=load),
        workers={},
        elsewhere={},
        speeds={},
        calls=calls,
        check=lambda plan: None,
        blame=lambda device, reason: None,
    )
    try:
        yield executor
    finally:
        executor.close()
        calls.close()


def _engine_settings(config: Config) -> EngineSettings:
    return EngineSettings(
        config.context_tokens, config.prefill_tokens, 0, config.wire_dtype, False, config.cluster_wait_s
    )


def profile_of(config: Config, compute: Compute, pack: Pack) -> DeviceProfile:
    """Without a disk: nothing streams, or it does not fit. One rank has all, however fast it is."""
    return DeviceProfile(
        DeviceId("0" * 64),
        "alone",
        Role.USER,
        __version__,
        ram_bytes=config.memory_budget,
        budget_bytes=config.memory_budget,
        disk_free_bytes=0,
        threads=config.threads,
        read_bytes_s=1.0,
        backend=compute.name,
        packs=(pack.id,),
    )


def profile_with_disk(config: Config, compute: Compute, pack: Pack) -> DeviceProfile:
    """As a daemon that starts for the first time measures it."""
    with TemporaryDirectory() as state:
        measured = config.model_copy(update={"state_dir": Path(state)})
        return make_profile(measured, DeviceId("0" * 64), PackStore(pack.directory.parent), compute)


async def decode_s(executor: Executor, tokens: int, depth: int) -> float:
    """Seconds for `tokens` of an answer that begins `depth` tokens into the context."""
    sampler = Sampler(SamplingParams())
    sequence = TokenSequence(prompt_ids(executor, max(depth, 1)))
    executor.attach(sequence)
    sequence.append(sampler.sample(await executor.advance(sequence), sequence.ids))
    started = time.perf_counter()
    for _ in range(tokens):
        sequence.append(sampler.sample(await executor.advance(sequence), sequence.ids))
    return time.perf_counter() - started


async def prefill_s(executor: Executor, tokens: int, depth: int) -> float:
    """Seconds from a prompt of `tokens` behind `depth` others to the first token of the answer."""
    ids = prompt_ids(executor, depth + tokens)
    if depth:
        before = TokenSequence(ids[:depth])
        executor.attach(before)
        await executor.advance(before)
    sequence = TokenSequence(ids)
    sequence.n_computed = depth  # also where more of it is cached
    started = time.perf_counter()
    Sampler(SamplingParams()).sample(await executor.advance(sequence), sequence.ids)
    return time.perf_counter() - started


def prompt_ids(executor: Executor, n_tokens: int) -> list[int]:
    return [7 * i % executor.pack.spec.vocab_size for i in range(n_tokens)]


async def serve(pack: Pack, threads: int, activation_bits: int, **settings: Any) -> None:
    async with alone(pack, threads, activation_bits, **settings) as executor:
        print(json.dumps({"ready": pack.name}), flush=True)
        for line in sys.stdin:
            test = json.loads(line)
            run = decode_s if test["kind"] == "decode" else prefill_s
            took_s = await run(executor, test["tokens"], test["depth"])
            print(json.dumps({"tokens_s": test["tokens"] / took_s}), flush=True)
            await asyncio.sleep(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pack", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--activation-bits", type=int, choices=(8, 16), default=16)
    parser.add_argument("--memory", help="budget, such as 2G; what does not fit streams. Default: all in memory")
    arguments = parser.parse_args()
    settings = {} if arguments.memory is None else {"memory_budget": arguments.memory}
    uvloop.run(serve(Pack(arguments.pack), arguments.threads, arguments.activation_bits, **settings))


if __name__ == "__main__":
    main()
