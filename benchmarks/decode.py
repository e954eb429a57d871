"""Decode of whole models beside llama.cpp: tokens a second, one by one, 128 tokens into the context.

    python benchmarks/decode.py [--quick] [--json] [--rows PATTERN] [--activation-bits 8]

Random weights in TinyLlama's shape as Q4_0, Q8_0, F16, K-quants and IQ4_XS, and SmolLM2-135M as published (Q4_1); both
sides run the same GGUF file, ours imported, without re-quantizing, on the same cores, one thread each. llama.cpp:
`llama-bench` of the version in llama_cpp.py, KV cache fp16 on both sides, flash attention and mmap whichever is faster
for it.
"""

import sys

from beside_llama_cpp import Row, run
from llama_cpp import Test

TEST = Test("decode", tokens=64, depth=128)
ROWS = (
    Row("tinyllama-1.1b", "Q4_0", 1, TEST, 1.3),
    Row("tinyllama-1.1b", "Q4_0", 2, TEST, 1.3),
    Row("tinyllama-1.1b", "Q8_0", 1, TEST, 1.2),
    Row("tinyllama-1.1b", "F16", 1, TEST, 1.2),
    *(Row("tinyllama-1.1b", type, 1, TEST, 1.2) for type in ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_XS")),
    Row("smollm2-135m", "Q4_1", 1, Test("decode", tokens=256, depth=128), 1.2),
)

if __name__ == "__main__":
    sys.exit(run(ROWS, __doc__ or ""))
