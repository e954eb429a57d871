"""Faults by name, for a command line and for schedules: `kill h2`, `change h2 delay_ms=30 loss_percent=2`."""

import inspect
import signal
from collections.abc import Callable, Sequence
from pathlib import Path

from homelab.home import Home
from homelab.layout import LinkLayout
from homelab.programs import LabError


class Faults:
    """The words of a fault are the name of a method and what it takes; all links of a host share its fate."""

    def __init__(self, home: Home, models: Path) -> None:
        self._home = home
        self._models = models

    def make(self, words: Sequence[str]) -> str:
        """What a person should know afterwards, often nothing. Raises LabError if there is no such fault or host."""
        name, *arguments = words
        fault = self._named(name)
        try:
            inspect.signature(fault).bind(*arguments)
        except TypeError as error:
            raise LabError(f"{name}: {error}.") from error
        return fault(*arguments) or ""

    @classmethod
    def names(cls) -> dict[str, str]:
        """Of all faults, with what each does."""
        return {
            name: inspect.getdoc(member) or ""
            for name, member in vars(cls).items()
            if callable(member) and not name.startswith("_") and name not in ("make", "names")
        }

    def _named(self, name: str) -> Callable[..., str | None]:
        if name not in self.names():
            raise LabError(f"There is no {name}; there are {', '.join(self.names())}.")
        fault: Callable[..., str | None] = getattr(self, name)
        return fault

    # --- daemons

    def kill(self, host: str) -> None:
        """HOST: its daemon ends without a word, as when the power fails"""
        self._home.host(host).daemon.kill()

    def start(self, host: str) -> None:
        """HOST: its daemon begins to start, with the state that it had"""
        self._home.start_daemon(self._home.host(host), self._models)

    def end(self, host: str) -> None:
        """HOST: its daemon ends in order"""
        self._home.host(host).daemon.stop()

    def stop(self, host: str) -> None:
        """HOST: its daemon stands still"""
        self._home.host(host).daemon.signal(signal.SIGSTOP)

    def cont(self, host: str) -> None:
        """HOST: its daemon goes on"""
        self._home.host(host).daemon.signal(signal.SIGCONT)

    # --- links

    def cut(self, host: str) -> None:
        """HOST: nothing crosses its links, and nobody is told"""
        for link in self._home.host(host).links:
            link.cut()

    def unplug(self, host: str) -> None:
        """HOST: its links have no carrier"""
        for link in self._home.host(host).links:
            link.unplug()

    def change(self, host: str, *settings: str) -> None:
        """HOST KEY=NUMBER ...: delay_ms, jitter_ms, rate_mbit, loss_percent, queue_kb of its links, until healed"""
        values = {}
        for setting in settings:
            key, _, value = setting.partition("=")
            if key not in LinkLayout.model_fields or key == "subnet":
                raise LabError(f"A link has no {key}.")
            try:
                values[key] = float(value)
            except ValueError as error:
                raise LabError(f"{setting} is not KEY=NUMBER.") from error
        for link in self._home.host(host).links:
            link.change(**values)

    def mute(self, host: str) -> None:
        """HOST: mDNS does not cross its links"""
        for link in self._home.host(host).links:
            link.block_mdns()

    def block(self, host: str, port: str) -> None:
        """HOST PORT: its firewall drops what comes for this port"""
        if not port.isdecimal():
            raise LabError(f"{port} is not a port number.")
        for link in self._home.host(host).links:
            link.block_port(int(port))

    def part(self, *hosts: str) -> None:
        """HOST ...: these reach each other only, and the others each other"""
        apart = [self._home.host(name) for name in hosts]
        self._home.partition(apart, [host for host in self._home.hosts if host not in apart])

    def heal(self, *hosts: str) -> None:
        """[HOST ...]: their links, by default all, are as the file has them"""
        for host in [self._home.host(name) for name in hosts] or self._home.hosts:
            for link in host.links:
                link.heal()

    def move(self, host: str) -> str:
        """HOST: it has other addresses, as when a DHCP lease has run out"""
        return ", ".join(self._home.host(host).change_addresses())

    # --- disks

    def fill(self, host: str) -> None:
        """HOST: the disk with its state is full"""
        self._home.host(host).fill_disk()

    def free(self, host: str) -> None:
        """HOST: its disk has room again"""
        self._home.host(host).free_disk()
