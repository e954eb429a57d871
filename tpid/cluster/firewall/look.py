"""Asks the firewalls of this machine what they let through; changes nothing. Their rules are often root's to read."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from tpid.cluster.firewall.frontends import firewalld_passes, ufw_passes
from tpid.cluster.firewall.iptables import iptables_passes
from tpid.cluster.firewall.nft import nft_chains
from tpid.cluster.firewall.walk import Packet, Passes, all_of

MDNS: Final = Packet("udp", 5353, group="224.0.0.251")
PROGRAM_S: Final = 3.0
MAX_OUTPUT_BYTES: Final = 8 * 2**20

_PATH: Final = "/usr/sbin:/usr/bin:/sbin:/bin"
_UFW_CONF: Final = Path("/etc/ufw/ufw.conf")  # that anybody may read, unlike its rules


@dataclass(frozen=True, slots=True)
class Firewall:
    """One that is on, and whether it lets in what this device lives by."""

    name: str  # "ufw", "firewalld", "nftables", "iptables"
    tcp: Passes
    mdns: Passes
    readable: bool = True
    chain: str = "inet filter input"  # of nftables: where a rule is to be put


@dataclass(frozen=True, slots=True)
class Output:
    """Of a program that has ended. `refused` is whether it says that only root may ask."""

    text: str
    ok: bool
    refused: bool = False


Run: TypeAlias = Callable[..., Awaitable[Output | None]]  # words of a command; None where there is no such program


async def look_at_firewalls(
    port: int, interfaces: Collection[str], run: Run | None = None, ufw_conf: Path = _UFW_CONF
) -> tuple[Firewall, ...]:
    """Those that are on, the one that people set first. Where ufw or firewalld is on, the kernel's rules are theirs."""
    run = run or run_program
    tcp = Packet("tcp", port)
    for ask in (_ufw, _firewalld):
        firewall = await ask(run, tcp, interfaces, ufw_conf)
        if firewall is not None:
            return (firewall,)
    return await _kernel(run, tcp)


async def _ufw(run: Run, tcp: Packet, _: Collection[str], conf: Path) -> Firewall | None:
    output = await run("ufw", "status", "verbose")
    if output is None:
        return None
    if not output.ok:
        with contextlib.suppress(OSError):
            if "ENABLED=yes" in (await asyncio.to_thread(conf.read_text, errors="replace")).splitlines():
                return Firewall("ufw", Passes.UNSURE, Passes.UNSURE, readable=False)
        return None
    return _found("ufw", ufw_passes(output.text, tcp), ufw_passes(output.text, MDNS))


async def _firewalld(run: Run, tcp: Packet, interfaces: Collection[str], _: Path) -> Firewall | None:
    state = await run("firewall-cmd", "--state")
    if state is None or not state.ok:
        return None
    output = await run("firewall-cmd", "--list-all-zones")
    if output is None or not output.ok:
        return Firewall("firewalld", Passes.UNSURE, Passes.UNSURE, readable=False)
    answers = (firewalld_passes(output.text, packet, interfaces) for packet in (tcp, MDNS))
    return _found("firewalld", *answers)


async def _kernel(run: Run, tcp: Packet) -> tuple[Firewall, ...]:
    found: list[Firewall | None] = []
    iptables = await run("iptables", "-S")
    nft = await run("nft", "-j", "list", "ruleset")
    with_iptables = iptables is not None and iptables.ok
    if nft is not None and nft.ok:
        with contextlib.suppress(ValueError):
            found.append(_nftables(nft.text, tcp, without_iptables=with_iptables))
    if iptables is not None and iptables.ok:
        with contextlib.suppress(ValueError):
            found.append(_found("iptables", *(iptables_passes(iptables.text, packet) for packet in (tcp, MDNS))))
    if not found and any(output is not None and output.refused for output in (nft, iptables)):
        name = "nftables" if nft is not None else "iptables"
        found.append(Firewall(name, Passes.UNSURE, Passes.UNSURE, readable=False))
    return tuple(firewall for firewall in found if firewall is not None)


def _nftables(text: str, tcp: Packet, *, without_iptables: bool) -> Firewall | None:
    by_tcp, by_mdns = (nft_chains(text, packet, without_iptables=without_iptables) for packet in (tcp, MDNS))
    if not by_tcp:
        return None
    closed = [chain for chains in (by_tcp, by_mdns) for chain, answer in chains.items() if answer is Passes.NO]
    return Firewall(
        "nftables",
        all_of(list(by_tcp.values())),
        all_of(list(by_mdns.values())),
        chain=next(iter([*closed, *by_tcp])),
    )


def _found(name: str, tcp: Passes | None, mdns: Passes | None) -> Firewall | None:
    """None where neither is filtered."""
    if tcp is None and mdns is None:
        return None
    return Firewall(name, tcp or Passes.YES, mdns or Passes.YES)


async def run_program(name: str, *arguments: str) -> Output | None:
    """What it says in English within `PROGRAM_S`; nobody is asked for a password."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_PATH}")
    if path is None:
        return None
    try:
        process = await asyncio.create_subprocess_exec(
            path,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C", "SYSTEMD_ASK_PASSWORD": "0"},
        )
    except OSError:
        return Output("", ok=False, refused=True)
    try:
        async with asyncio.timeout(PROGRAM_S):
            text = await _read(process)
            ok = await process.wait() == 0
    except TimeoutError:
        return Output("", ok=False, refused=True)
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    said = text.lower()
    return Output(text, ok, refused=not ok and ("permitted" in said or "permission" in said or "root" in said))


async def _read(process: asyncio.subprocess.Process) -> str:
    """All of it, or its beginning where that is more than anybody's rules."""
    parts: list[bytes] = []
    left_bytes = MAX_OUTPUT_BYTES
    while process.stdout is not None and left_bytes > 0 and (part := await process.stdout.read(left_bytes)):
        parts.append(part)
        left_bytes -= len(part)
    if left_bytes <= 0:
        process.kill()
    return b"".join(parts).decode(errors="replace")
