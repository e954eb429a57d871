"""Matrix products of the native kernels beside what the machine can do at best.

    python benchmarks/kernels.py [--quick] [--json] [--threads N] [--formats q4_k q6_k]

One token is bound by memory: bytes of weights a second, beside a plain read of as many bytes in the same round, the
fastest that plain_read.py knows. Several tokens are bound by arithmetic: FLOP a second, beside torch's fp32 product of
the same shape. Rounds of all kinds are interleaved, because the machine's mood changes within a run: trust the ratios,
which are medians over the rounds of quotients within one round.
"""

import argparse
import json
import statistics
from dataclasses import asdict, dataclass

import numpy as np
import torch

from plain_read import READ_BYTES, PlainRead, huge_pages, timed
from tpid.compute.native.library import Cores, kernel_names, load
from tpid.model.weights import Format
from tpid.pack.geometry import MatrixGeometry

COLUMNS = 2048
ROWS = 5632
TOKENS = (1, 2, 4, 8, 64, 512)


@dataclass(frozen=True, slots=True)
class Row:
    kernels: str
    format: str
    tokens: int
    gb_s: float
    gflop_s: float
    of_read: float  # median of the rounds' ratios
    of_sgemm: float


def measure(threads: int, rounds: int, formats: list[Format], tokens: tuple[int, ...]) -> list[Row]:
    library = load()
    if library is None:
        raise SystemExit("The native kernels are not built.")
    cores = {name: Cores(threads, name) for name in kernel_names(library)}
    rng = np.random.default_rng(1)
    plain = torch.from_numpy(rng.standard_normal((ROWS, COLUMNS), np.float32))
    read = PlainRead(threads)
    rows = []
    for format in formats:
        matrix = MatrixGeometry("rows", ROWS, COLUMNS, format, 0)
        units = _random_units(rng, matrix)
        for n in tokens:
            x = rng.standard_normal((n, COLUMNS), np.float32)
            x_torch = torch.from_numpy(x)
            copies = max(1, len(units) // n)
            flop = 2 * n * ROWS * COLUMNS
            seen: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cores}
            for _ in range(rounds):
                read_s = 1 / read.bytes_s()
                sgemm_s = timed(lambda x=x_torch: x @ plain.T) / flop
                for name, core in cores.items():
                    took = timed(
                        lambda c=core, m=matrix, u=units, x=x, k=copies: [
                            c.rows(m, u[i : i + 1], ROWS, x) for i in range(k)
                        ]
                    )
                    per_byte, per_flop = took / copies / matrix.size_bytes, took / copies / flop
                    seen[name].append((per_byte, read_s / per_byte, sgemm_s / per_flop))
            for name, values in seen.items():
                per_byte, of_read, of_sgemm = (statistics.median(part) for part in zip(*values, strict=True))
                gb_s = 1e-9 / per_byte
                rows.append(Row(name, format, n, gb_s, gb_s * flop / matrix.size_bytes, of_read, of_sgemm))
    return rows


def _random_units(rng: np.random.Generator, matrix: MatrixGeometry) -> np.ndarray:
    """READ_BYTES of one matrix, again and again, with sound scales: every half is 2^-6 at most."""
    units = huge_pages(READ_BYTES)[: READ_BYTES // matrix.size_bytes * matrix.size_bytes].reshape(-1, matrix.size_bytes)
    units[:] = rng.integers(0, 256, matrix.size_bytes, np.uint8)
    units[:, 1::2] &= 0x23
    return units


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer rounds, w4s only")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--formats", nargs="+", type=Format, help="of the weights; by default w4s, w4, w8 and f16")
    arguments = parser.parse_args()
    usual = [Format.W4S] if arguments.quick else [Format.W4S, Format.W4, Format.W8, Format.F16]
    formats = arguments.formats or usual
    tokens = (1, 8, 64) if arguments.quick else TOKENS
    rows = measure(arguments.threads, 5 if arguments.quick else 11, formats, tokens)
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return
    print(f"{'kernels':<12} {'format':<6} {'tokens':>6} {'GB/s':>7} {'GFLOP/s':>8} {'of read':>8} {'of sgemm':>8}")
    for row in rows:
        print(
            f"{row.kernels:<12} {row.format:<6} {row.tokens:>6} {row.gb_s:>7.1f} {row.gflop_s:>8.1f} "
            f"{row.of_read:>8.2f} {row.of_sgemm:>8.2f}"
        )


if __name__ == "__main__":
    main()
