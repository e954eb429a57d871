"""The switch of a home, as a process; and the links that lead to it."""

import contextlib
import itertools
import json
import os
import socket
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from homelab.builds import built
from homelab.layout import LinkLayout
from homelab.programs import LabError, ends_with_us

ANSWER_TIMEOUT_S = 5.0
_MAX_ANSWER_BYTES = 1 << 16
_numbers = itertools.count()


class Switch:
    """Runs from its making to `stop`; makes the interfaces that it is given."""

    def __init__(self, directory: Path, interfaces: Sequence[str]) -> None:
        """`interfaces` are NAMESPACE/NAME; a port's number is its place among them. Raises LabError."""
        self._directory = directory
        self._control = directory / "switch"
        log_path = directory / "switch.log"
        with log_path.open("wb") as log:
            command = [str(built("switch.c", "-Wall", "-Wextra", "-Werror")), str(self._control), *interfaces]
            self.process = subprocess.Popen(
                ends_with_us(command), stdout=subprocess.PIPE, stderr=log, start_new_session=True
            )
        assert self.process.stdout is not None
        if self.process.stdout.readline() != b"ready\n":
            raise LabError(f"The switch did not start: {log_path.read_text().strip()}")

    def tell(self, *words: object) -> str:
        """The answer to a command. Raises LabError if it is refused."""
        command = " ".join(str(word) for word in words)
        own = self._directory / f"control-{os.getpid()}-{next(_numbers)}"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.settimeout(ANSWER_TIMEOUT_S)
            try:
                channel.bind(str(own))
                channel.sendto(command.encode(), str(self._control))
                answer = channel.recv(_MAX_ANSWER_BYTES).decode()
            except OSError as error:
                raise LabError(f"The switch does not answer to `{command}`: {error}.") from error
            finally:
                own.unlink(missing_ok=True)
        if answer != "ok" and not answer.startswith("{"):
            raise LabError(f"The switch refuses `{command}`: {answer}.")
        return answer

    def stats(self) -> dict[str, Any]:
        """Frames and losses of each port since the start; how late frames were handed over since the last call."""
        found: dict[str, Any] = json.loads(self.tell("stats"))
        return found

    @contextlib.contextmanager
    def capture(self, path: Path) -> Iterator[None]:
        """All frames that hosts send meanwhile, in a file that tcpdump and Wireshark read."""
        self.tell("capture", path)
        try:
            yield
        finally:
            self.tell("capture")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


class Link:
    """Between one interface of a host and the switch."""

    def __init__(self, switch: Switch, port: int, layout: LinkLayout) -> None:
        self.layout = layout
        self._switch = switch
        self._port = port
        self._shape(layout)
        self.join(layout.subnet)

    def change(self, **settings: float) -> None:
        """Fields of LinkLayout, until `heal`; in Mbit/s, ms, percent."""
        self._shape(self.layout.model_copy(update=settings))

    def cut(self) -> None:
        """Nothing crosses any more, and nobody is told: as when somebody walks out of reach."""
        self._set("cut", 1)

    def unplug(self) -> None:
        """Nothing crosses, and the host sees that there is no carrier."""
        self._set("carrier", 0)

    def join(self, group: int) -> None:
        """From now on only links of the same group are reached."""
        self._set("group", group)

    def block_mdns(self) -> None:
        self._set("mdns", 0)

    def block_port(self, number: int) -> None:
        """TCP and UDP to this port of the host are dropped, as its firewall would; what it sends passes."""
        self._switch.tell("block", self._port, number)

    def heal(self) -> None:
        """As the layout has it."""
        self._set("cut", 0, "carrier", 1, "mdns", 1)
        self._switch.tell("unblock", self._port)
        self._shape(self.layout)
        self.join(self.layout.subnet)

    def _shape(self, layout: LinkLayout) -> None:
        self._set(
            *("delay_us", layout.delay_ms * 1000, "jitter_us", layout.jitter_ms * 1000),
            *("rate_mbit", layout.rate_mbit, "queue_kb", layout.queue_kb),
            *("loss_percent", layout.loss_percent, "air", layout.air),
        )

    def _set(self, *keys_and_values: object) -> None:
        self._switch.tell("set", self._port, *keys_and_values)
