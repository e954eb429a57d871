"""Prefill of a whole model beside llama.cpp: tokens of a prompt a second, up to the first token of the answer.

    python benchmarks/prefill.py [--quick] [--json] [--rows PATTERN] [--activation-bits 8]

Random weights in TinyLlama's shape as Q4_0, K-quants and IQ4_XS; method and sides are those of decode.py. Ours takes
the prompt in the daemon's own chunks, llama.cpp in batches of 512.
"""

import sys

from beside_llama_cpp import Row, run
from llama_cpp import Test

ROWS = (
    *(Row("tinyllama-1.1b", "Q4_0", n, Test("prefill", tokens), 1.3) for tokens in (128, 512) for n in (1, 2)),
    *(
        Row("tinyllama-1.1b", type, 1, Test("prefill", 128), 1.2)
        for type in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")
    ),
)

if __name__ == "__main__":
    sys.exit(run(ROWS, __doc__ or ""))
