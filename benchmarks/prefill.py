"""Prefill of a whole model beside llama.cpp: tokens of a prompt a second, up to the first token of the answer.

    python benchmarks/prefill.py [--quick] [--json] [--rows PATTERN] [--activation-bits 8]

Random weights in TinyLlama's shape as Q4_0; method and sides are those of decode.py. Ours takes the prompt in the
daemon's own chunks, llama.cpp in batches of 512.
"""

import sys

from beside_llama_cpp import Row, run
from llama_cpp import Test

ROWS = tuple(
    Row("tinyllama-1.1b", "Q4_0", threads, Test("prefill", tokens), 1.3) for tokens in (128, 512) for threads in (1, 2)
)

if __name__ == "__main__":
    sys.exit(run(ROWS, __doc__ or ""))
