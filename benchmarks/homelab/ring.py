"""One rank of gloo's allreduce on a host of a home, as a comparison; orders on stdin, times on stdout.

python -m homelab.ring RANK ADDRESS,ADDRESS,...     from the directory benchmarks

    begin HIDDEN N_TOKENS
    run STEPS                 JSON: the seconds of each step
"""

import json
import os
import sys
import time

import torch
from torch import distributed

PORT = 7100


def run(partial: torch.Tensor, steps: int, world_size: int) -> list[float]:
    """Raises ValueError where a sum is wrong."""
    times = []
    for _ in range(steps):
        partial.fill_(1.0)
        began_s = time.perf_counter()
        distributed.all_reduce(partial)
        times.append(time.perf_counter() - began_s)
        if not bool((partial == world_size).all()):
            raise ValueError(f"the sum is {partial}")
    return times


def main() -> None:
    rank, addresses = int(sys.argv[1]), sys.argv[2].split(",")
    os.environ["GLOO_SOCKET_IFNAME"] = "eth0"
    torch.set_num_threads(1)
    distributed.init_process_group(
        "gloo", init_method=f"tcp://{addresses[0]}:{PORT}", rank=rank, world_size=len(addresses)
    )
    print("joined", flush=True)
    partial = torch.zeros(0)
    for line in sys.stdin:
        order, *numbers = line.split()
        if order == "begin":
            hidden_size, n_tokens = map(int, numbers)
            partial = torch.zeros(n_tokens, hidden_size)
            print("ready", flush=True)
        else:
            print(json.dumps(run(partial, int(numbers[0]), len(addresses))), flush=True)
    os._exit(0)


if __name__ == "__main__":
    main()
