"""What a token takes while a third device gets units of the model from the one that coordinates.

    python benchmarks/beside_units.py MODELS_DIR MODEL [--pairs 8] [--mbit 100]

A home of three hosts (docs/testbed.md; as root): two compute, the third asks the first for units without an end, as its
daemon would, and throws them away. Answers without and with it take turns; the median of the ratios counts, because
both of a pair meet the same machine.
"""

import argparse
import asyncio
import statistics
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

from homelab.home import Home as HomeOfHosts
from homelab.host import Host
from homelab.layout import parse_layout
from tpid.cluster.home import Home
from tpid.comm.dialling import dial_for_units
from tpid.comm.settings import CommSettings
from tpid.pack.geometry import Block, Half, Share, UnitRange
from tpid.pack.pieces import piece_bytes, pieces_of
from tpid.pack.reader import Pack
from tpid.transfer.asking import AskingLine
from tpid.transfer.scheduler import WINDOW_BYTES
from tpid.transfer.wire import question_for

PORT = 7474
PROMPT = "Write a long story about a dog."
N_TOKENS = 48
BEGIN_S = 1.5  # until the asker is at full speed

_HOST = '[[hosts]]\nname = "{name}"\nrole = "{role}"\nlinks = [{{rate_mbit = {mbit}, delay_ms = 0.1}}]\n'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=Path)
    parser.add_argument("model")
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--mbit", type=float, default=100.0, help="of each link")
    parser.add_argument("--ask", nargs=2, metavar=("STATE", "ADDRESS"), help=argparse.SUPPRESS)  # inside the third host
    options = parser.parse_args()
    if options.ask is not None:
        asyncio.run(_ask_for_ever(Path(options.ask[0]), options.ask[1], Pack(options.models / options.model)))
        return
    roles = {"user": "user", "near": "helper", "far": "helper"}
    layout = "".join(_HOST.format(name=name, role=role, mbit=options.mbit) for name, role in roles.items())
    with HomeOfHosts(parse_layout(layout)) as home:
        user, _, far = home.hosts
        home.start_daemons(options.models, use_all_devices=True)
        far.daemon.stop()
        home.wait_whole(names={"user", "near"})
        _measure(user, far, options)


def _measure(user: Host, far: Host, options: argparse.Namespace) -> None:
    def token_ms() -> float:
        return 1e3 / user.daemon.ask(options.model, PROMPT, N_TOKENS).tokens_s

    token_ms()
    pairs, rates = [], []
    for _ in range(options.pairs):
        without = token_ms()
        command = [sys.executable, __file__, str(options.models), options.model]
        asker = far.popen(*command, "--ask", str(far.disk), user.addresses[0], stdout=subprocess.PIPE)
        time.sleep(BEGIN_S)
        pairs.append((without, token_ms()))
        asker.kill()
        *_, last = asker.communicate()[0].decode().split()
        rates.append(float(last))
        print(f"without {pairs[-1][0]:.1f} ms, beside {pairs[-1][1]:.1f} ms, {last} MB/s", flush=True)
    alone, beside = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(second / first for first, second in pairs)
    print(f"median {alone:.1f} ms, beside {beside:.1f} ms, ratio {ratio:.3f}, {statistics.median(rates):.1f} MB/s")


async def _ask_for_ever(state: Path, address: str, pack: Pack) -> None:
    """Prints the MB a second of each second."""
    home = Home.load(state, "far")
    user = home.member_named("user")
    line = AskingLine(await dial_for_units([(address, PORT)], home, user.id, CommSettings()), user.name)
    attn, ffn = (pack.geometry(Block(0, half)).n_units for half in Half)
    pieces = list(pieces_of(pack.manifest, Share(UnitRange(0, attn), UnitRange(0, ffn))))
    n_open = max(WINDOW_BYTES * len(pieces) // sum(piece_bytes(pack, piece) for piece in pieces), 1)
    answers: deque[asyncio.Future[bytearray | None]] = deque()
    came, since_s = 0, time.monotonic()
    while True:
        for piece in pieces:
            answers.append(line.ask(question_for(pack.id, piece), piece_bytes(pack, piece)))
            if len(answers) < n_open:
                continue
            came += len(await answers.popleft() or b"")
            if (seconds := time.monotonic() - since_s) > 1.0:
                print(f"{came / seconds / 1e6:.2f}", flush=True)
                came, since_s = 0, time.monotonic()


if __name__ == "__main__":
    main()
