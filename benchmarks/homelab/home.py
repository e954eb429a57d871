"""A home: hosts, a switch between them, and the order in which they come and go."""

import signal
import threading
from collections.abc import Collection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from homelab.host import Host
from homelab.layout import HomeLayout, load_layout
from homelab.leftovers import directory_of, new_tag, remove, remove_leftovers
from homelab.permitted import why_not
from homelab.programs import LabError
from homelab.switch import Link, Switch
from paired_home import PairedHome

_PARTITION = 100  # groups of the switch above all subnets


class Home:
    """Use as `with Home.from_toml(path) as home`: built at the beginning, all of it gone at the end."""

    def __init__(self, layout: HomeLayout) -> None:
        self.layout = layout
        self.hosts: list[Host] = []
        self._tag = new_tag()
        self._switch: Switch | None = None
        self._paired: PairedHome | None = None

    @classmethod
    def from_toml(cls, path: Path) -> Self:
        """Raises LabError."""
        return cls(load_layout(path))

    @property
    def directory(self) -> Path:
        return directory_of(self._tag)

    @property
    def switch(self) -> Switch:
        if self._switch is None:
            raise LabError("The home is not up.")
        return self._switch

    def host(self, name: str) -> Host:
        """Raises LabError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise LabError(f"There is no host {name}; there are {', '.join(host.name for host in self.hosts)}.")

    # --- from beginning to end

    def __enter__(self) -> Self:
        reason = why_not()
        if reason is not None:
            raise LabError(f"Not here: {reason}.")
        if threading.current_thread() is not threading.main_thread():
            raise LabError("A home is built by the main thread: what it starts ends with the thread.")
        remove_leftovers()
        try:
            self._build()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _build(self) -> None:
        self.directory.mkdir()
        self.hosts = [
            Host(layout, index, self._tag, self.directory) for index, layout in enumerate(self.layout.each_host)
        ]
        for host in self.hosts:
            host.make_namespace()
        names = [name for host in self.hosts for name in host.interfaces]
        self._switch = Switch(self.directory, names)
        for host in self.hosts:
            host.links = [
                Link(self._switch, names.index(name), layout)
                for name, layout in zip(host.interfaces, host.layout.links, strict=True)
            ]
            host.raise_interfaces()

    def down(self) -> None:
        """Ends all that runs and removes all that was made; a second Ctrl-C does not stop it halfway."""
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            for host in self.hosts:
                host.daemon.kill()
            if self._switch is not None:
                self._switch.stop()
            remove(self._tag)
            if self._paired is not None:
                self._paired.close()
        finally:
            signal.signal(signal.SIGINT, before)

    # --- daemons

    def start_daemons(self, models: Path, **settings: Any) -> None:
        """All of them; returns when the first has all the others at hand. Raises LabError."""
        for host in self.hosts:
            self.start_daemon(host, models, **settings)
        self.wait_whole()

    def start_daemon(self, host: Host, models: Path, *, paired: bool = True, **settings: Any) -> None:
        """`paired`: as a member of the home of all its hosts; else with the state that it has."""
        if paired:
            if self._paired is None:
                self._paired = PairedHome({each.name: each.layout.role for each in self.hosts})
            self._paired.furnish(host.name, host.disk)
        host.daemon.start(models, **settings)

    def wait_whole(self, at: Host | None = None, names: Collection[str] | None = None) -> float:
        """Until `at`, by default the first host, has the lease of all the named, by default of all; the seconds."""
        wanted = set(names) if names is not None else {host.name for host in self.hosts}
        daemon = (at or self.hosts[0]).daemon
        return daemon.wait(f"a cluster of {', '.join(sorted(wanted))}", lambda _: daemon.granted() == wanted)

    # --- the network as a whole

    def partition(self, *sides: Collection[Host]) -> None:
        """Only hosts of one side still reach each other, by their first links; until `heal`."""
        for number, side in enumerate(sides):
            for host in side:
                host.link.join(_PARTITION + number)

    def heal(self) -> None:
        """All links as the layout has them."""
        for host in self.hosts:
            for link in host.links:
                link.heal()
