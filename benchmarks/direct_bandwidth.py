"""How fast the disk gives a pack to direct reads that have nothing else to do: the reference for what streams.

The daemon's own measure, over just the ranges that stream; beside it `fio`, where it is installed, over whole files.
"""

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from itertools import cycle
from pathlib import Path

from tpid.memory.prefetch import MAX_READS, READ_BYTES
from tpid.memory.read_speed import chunks_of, direct_read_bytes_s
from tpid.pack.reader import ByteRange

READ_S, FIO_S = 1.0, 2.0


def weight_files(pack: Path) -> list[Path]:
    return sorted(pack.rglob("*.safetensors"))


def fio_bytes_s(files: Sequence[Path]) -> float | None:
    """None where there is no fio. Raises RuntimeError."""
    if shutil.which("fio") is None:
        return None
    command = ["fio", "--name=read", f"--filename={':'.join(map(str, files))}", "--file_service_type=sequential"]
    command += ["--rw=read", "--direct=1", f"--bs={READ_BYTES}", "--ioengine=libaio", f"--iodepth={MAX_READS}"]
    command += ["--readonly", "--time_based", f"--runtime={FIO_S:g}s", "--output-format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"fio failed: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
    return float(json.loads(done.stdout)["jobs"][0]["read"]["bw_bytes"])


def around(ranges: Iterable[ByteRange]) -> Iterator[ByteRange]:
    """Chunks for `direct_bytes_s`, from the first again when all were read."""
    return cycle(chunks_of(ranges))


def direct_bytes_s(chunks: Iterator[ByteRange]) -> float:
    """Over the next of them, as many as come in a second. Raises OSError or LoadError."""
    return direct_read_bytes_s(chunks, READ_S)
