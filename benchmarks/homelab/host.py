"""A host of a home: a network namespace, a disk and limits of its own, its links, and a daemon when it is started."""

import contextlib
import ctypes
import errno
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from homelab.builds import built
from homelab.daemon import Daemon
from homelab.layout import HostLayout
from homelab.leftovers import NAMESPACES
from homelab.limits import Limits, make_groups, within
from homelab.programs import ends_with_us, run
from homelab.switch import Link

_CHANGED_BY = 100  # the last number of an address that a host has after its n-th change: its index + n * this
_PIECE_BYTES = 1 << 20
_CLONE_NEWNET = 0x40000000
_T = TypeVar("_T")


class Host:
    """Made by Home. Interfaces are eth0, eth1 …, one for each link."""

    def __init__(self, layout: HostLayout, index: int, tag: str, directory: Path) -> None:
        self.layout = layout
        self.name = layout.name
        self.index = index
        self.namespace = f"{tag}-{layout.name}"
        self.directory = directory / layout.name
        self.disk = self.directory / "disk"
        self.links: list[Link] = []  # once the switch runs
        self.daemon = Daemon(self)
        self._n_changes = 0
        self._limits = Limits(
            cores=layout.cores,
            memory_bytes=layout.memory,
            read_bytes_s=int(layout.read_mb_s * 1e6) if layout.read_mb_s else None,
        )
        self._groups: list[Path] = []

    @property
    def link(self) -> Link:
        """The first, which is the only one of most."""
        return self.links[0]

    @property
    def interfaces(self) -> list[str]:
        """As the switch names them."""
        return [f"{self.namespace}/eth{nic}" for nic in range(len(self.layout.links))]

    @property
    def addresses(self) -> list[str]:
        """Those of all interfaces, IPv4 before IPv6."""
        return [address for nic in range(len(self.layout.links)) for address in self.addresses_of(nic)]

    def addresses_of(self, nic: int) -> list[str]:
        subnet, number = self.layout.links[nic].subnet, self.index + 1 + self._n_changes * _CHANGED_BY
        return [f"10.77.{subnet}.{number}"] * self.layout.ipv4 + [f"fd77:{subnet}::{number}"] * self.layout.ipv6

    # --- making it

    def make_namespace(self) -> None:
        self.disk.mkdir(parents=True)
        run("mount", "-t", "tmpfs", "-o", f"size={self.layout.disk}", self.namespace, self.disk)
        self._groups = make_groups(self.namespace, self._limits, self.directory.parent)
        run("ip", "netns", "add", self.namespace)
        self.run("sysctl", "-qw", f"net.ipv6.conf.all.disable_ipv6={int(not self.layout.ipv6)}", check=False)
        self.run("ip", "link", "set", "lo", "up")

    def raise_interfaces(self) -> None:
        """Once the switch has made them."""
        for nic in range(len(self.layout.links)):
            self.run("ip", "link", "set", f"eth{nic}", "mtu", 1500, "up")
            self._add_addresses(nic)

    # --- what runs on it

    def command(self, *words: object) -> list[str]:
        """`words`, in the host's namespace and limits, for no longer than this process lives."""
        enter = ["nsenter", f"--net={NAMESPACES / self.namespace}", *(str(word) for word in words)]
        return within(self._groups, ends_with_us(enter))

    def run(self, *words: object, check: bool = True) -> str:
        return run(*self.command(*words), check=check)

    def popen(self, *words: object, **options: Any) -> "subprocess.Popen[Any]":
        return subprocess.Popen(self.command(*words), start_new_session=True, **options)

    def inside(self, make: Callable[[], _T]) -> _T:
        """What `make` gives, called in the host's namespace. A socket stays in the namespace that it was made in."""
        results: list[_T] = []
        errors: list[Exception] = []

        def enter() -> None:  # the thread alone is moved, and ends afterwards
            try:
                with (NAMESPACES / self.namespace).open() as namespace:
                    if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), f"{self.namespace} cannot be entered")
                results.append(make())
            except Exception as error:
                errors.append(error)

        thread = threading.Thread(target=enter, name=f"inside-{self.name}")
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def environment(self) -> dict[str, str]:
        """Of its daemon: with the host's clock and cores."""
        environment = dict(os.environ)
        if self.layout.slow > 1:
            environment["HOMELAB_SLOW"] = str(self.layout.slow)
        if self.layout.protocol is not None:
            environment["HOMELAB_PROTOCOL"] = str(self.layout.protocol)
        if not self.layout.clock_offset_s:
            return environment
        clock = built("clock.c", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC")
        return environment | {"LD_PRELOAD": str(clock), "HOMELAB_CLOCK_OFFSET_S": str(self.layout.clock_offset_s)}

    # --- faults; those of the network are the links'

    def change_addresses(self, nic: int = 0) -> list[str]:
        """What DHCP does when a lease has run out: the old addresses are gone; gives the new ones."""
        self.run("ip", "addr", "flush", "dev", f"eth{nic}", "scope", "global")
        self._n_changes += 1
        self._add_addresses(nic)
        return self.addresses_of(nic)

    def fill_disk(self) -> None:
        """Until not a byte is free."""
        with (self.disk / "full").open("ab", buffering=0) as file:
            for size_bytes in (_PIECE_BYTES, 4096):
                with contextlib.suppress(_DiskFull):
                    while True:
                        _append(file.fileno(), bytes(size_bytes))

    def free_disk(self) -> None:
        (self.disk / "full").unlink(missing_ok=True)

    def wipe(self) -> None:
        """Its disk is empty, as that of a device that has never run; its daemon must not run."""
        for path in self.disk.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()

    def _add_addresses(self, nic: int) -> None:
        subnet = self.layout.links[nic].subnet
        for address in self.addresses_of(nic):
            length, more = (64, ["nodad"]) if ":" in address else (24, ["brd", "+"])
            self.run("ip", "addr", "add", f"{address}/{length}", *more, "dev", f"eth{nic}")
        if self.layout.ipv4 and (nic == 0 or subnet != self.layout.links[0].subnet):
            # What a host sends to a group without naming an interface goes out of the first.
            self.run("ip", "route", "replace", "224.0.0.0/4", "dev", f"eth{nic}", "metric", 10 + nic)


class _DiskFull(Exception):
    pass


def _append(file: int, data: bytes) -> None:
    try:
        os.write(file, data)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise _DiskFull from error
        raise
