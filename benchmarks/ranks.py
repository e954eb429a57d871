"""Decode of two daemons with one core each beside one daemon with one core: what the second device brings.

    python benchmarks/ranks.py [--quick] [--json] [--pack PACK]

Real daemons on loopback, answering chats over their sockets; pairs are interleaved and who begins alternates, so that a
ratio is of one moment. By default the model is random weights in TinyLlama's shape as Q4_0, made at the first run; and
llama.cpp runs the same GGUF file on one core in each round, for the row beside distributed-llama.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

from beside_llama_cpp import files_of, weight_bytes
from llama_cpp import BuildError, Test, fastest_variant, tokens_s
from plain_read import PlainRead
from two_daemons import Cluster, cluster

MODEL, TYPE = "tinyllama-1.1b", "Q4_0"
PAIRS, QUICK_PAIRS = 9, 3
ANSWER_TOKENS, QUICK_ANSWER_TOKENS = 96, 32
FEWEST_TOKENS = 8  # of an answer that counts: random weights may end it early
DEPTH = 32  # of llama.cpp's decode, about that of a short prompt

# distributed-llama's decode on one core of a machine like ours, TinyLlama's shape and Q40, where llama.cpp's was
# between 15 and 17 (the project's issue 3). It is not in the package indexes, so it is not measured in the same run.
DISTRIBUTED_LLAMA_TOKENS_S = 5.3
LLAMA_CPP_THERE_TOKENS_S = 16.0


@dataclass(frozen=True, slots=True)
class Result:
    model: str
    one_tokens_s: float  # medians
    two_tokens_s: float
    ratio: float  # median of the pairs' ratios
    lowest: float
    highest: float
    limit: float  # the ratio if two cores decoded as fast as they read memory together
    pairs: int
    llama_cpp_tokens_s: float | None  # one core
    distributed_llama_tokens_s: float | None  # scaled
    to_distributed_llama: float | None


def distributed_llama_tokens_s(llama_cpp_tokens_s: float) -> float:
    """distributed-llama's figure, scaled to the machine where llama.cpp does so much on one core in the same run.

    The figure is of one node. Two nodes do twice that at the very best: a ratio of 3 to this is 1.5 to that.
    """
    return DISTRIBUTED_LLAMA_TOKENS_S * llama_cpp_tokens_s / LLAMA_CPP_THERE_TOKENS_S


def answer_tokens_s(found: Cluster, model: str, number: int, max_tokens: int) -> float:
    """Asks until an answer is long enough. Raises RuntimeError."""
    for attempt in range(8):
        answer = found.ask(model, f"Tell me about the number {1000 * attempt + number}.", max_tokens)
        if answer.completion_tokens >= FEWEST_TOKENS:
            return answer.tokens_s
    raise RuntimeError(f"{model} ends its answers within {FEWEST_TOKENS} tokens.")


def measure(pack: Path, gguf: Path | None, pairs: int, max_tokens: int) -> Result:
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise RuntimeError(f"Two daemons need two cores, this process may use {len(cores)}.")
    variant = ()
    if gguf is not None:
        variant = fastest_variant(gguf, Test("decode", max_tokens, DEPTH), cores[:1], tries=1)
    ones, twos, theirs, reads = [], [], [], []
    memory, token_bytes = PlainRead(2), weight_bytes(pack)
    with (
        tempfile.TemporaryDirectory(prefix="tpid-") as directory,  # short: Unix sockets are in it
        cluster("one", cores[:1], pack.parent, Path(directory)) as one,
        cluster("two", cores, pack.parent, Path(directory)) as two,
    ):
        for found, n_ranks in ((one, 1), (two, 2)):
            answer_tokens_s(found, pack.name, 0, max_tokens)  # loads, and warms up
            if len(found.ranks()) != n_ranks:
                raise RuntimeError(f"The plan has {len(found.ranks())} ranks instead of {n_ranks}.")
        for pair in range(1, pairs + 1):
            for found, times in ((one, ones), (two, twos)) if pair % 2 else ((two, twos), (one, ones)):
                times.append(answer_tokens_s(found, pack.name, pair, max_tokens))
            reads.append(memory.bytes_s() / token_bytes)
            if gguf is not None:
                theirs.append(tokens_s(gguf, Test("decode", max_tokens, DEPTH), cores[:1], variant))
    ratios = [b / a for a, b in zip(ones, twos, strict=True)]
    middle = statistics.median
    llama_cpp = middle(theirs) if theirs else None
    scaled = None if llama_cpp is None else distributed_llama_tokens_s(llama_cpp)
    beside = middle(b / distributed_llama_tokens_s(c) for b, c in zip(twos, theirs, strict=True)) if theirs else None
    return Result(
        pack.name,
        middle(ones),
        middle(twos),
        middle(ratios),
        min(ratios),
        max(ratios),
        middle(read / a for a, read in zip(ones, reads, strict=True)),
        pairs,
        llama_cpp,
        scaled,
        beside,
    )


def show(result: Result) -> None:
    print(f"{result.model}, tokens a second, medians of {result.pairs} interleaved pairs")
    print(f"one daemon, one core           {result.one_tokens_s:7.1f}")
    print(f"two daemons, one core each     {result.two_tokens_s:7.1f}")
    print(f"ratio                          {result.ratio:7.2f}  ({result.lowest:.2f} … {result.highest:.2f}, aim 1.75)")
    print(f"limit of memory                {result.limit:7.2f}  (what both cores read, one token's weights at a time)")
    if result.llama_cpp_tokens_s is not None:
        print(f"llama.cpp, one core            {result.llama_cpp_tokens_s:7.1f}")
        print(
            f"distributed-llama, scaled      {result.distributed_llama_tokens_s:7.1f}  "
            f"(published {DISTRIBUTED_LLAMA_TOKENS_S:g} where llama.cpp does {LLAMA_CPP_THERE_TOKENS_S:g})"
        )
        print(f"two daemons beside it          {result.to_distributed_llama:7.2f}  (aim 3)")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of lines")
    parser.add_argument("--quick", action="store_true", help="few pairs of short answers; the numbers swing more")
    parser.add_argument("--pack", type=Path, help="another model, in a directory of packs; without llama.cpp")
    arguments = parser.parse_args()
    pairs, tokens = (QUICK_PAIRS, QUICK_ANSWER_TOKENS) if arguments.quick else (PAIRS, ANSWER_TOKENS)
    try:
        gguf, pack = (None, arguments.pack) if arguments.pack is not None else files_of(MODEL, TYPE)
        try:
            result = measure(pack, gguf, pairs, tokens)
        except BuildError as error:
            print(f"without llama.cpp: {error}", file=sys.stderr)
            result = measure(pack, None, pairs, tokens)
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(asdict(result), indent=2))
    else:
        show(result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
