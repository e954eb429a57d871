"""tpictl on a pseudo-terminal of its own, with a screen that shows what a person would see."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable

import pyte

TIMEOUT_S = 20.0
ENTER, CTRL_C, CTRL_D, ALT_ENTER = b"\r", b"\x03", b"\x04", b"\x1b\r"
PROMPT = "> "
# Makes the terminal the process's own, so that Ctrl-C is a signal as it is for a person.
_OWN_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A process and its screen. Waiting reads what it writes, so whoever wants to see something waits for it."""

    def __init__(self, environment: dict[str, str], *arguments: str, columns: int = 80, rows: int = 24) -> None:
        self.screen = pyte.HistoryScreen(columns, rows, history=1000)
        self._stream = pyte.ByteStream(self.screen)
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        command = [sys.executable, "-ISc", _OWN_TERMINAL, sys.executable, "-m", "tpictl.main", *arguments]
        self.process = subprocess.Popen(
            command, stdin=slave, stdout=slave, stderr=slave, env=environment, start_new_session=True
        )
        os.close(slave)
        self.written = b""  # all that came

    def type(self, *keys: bytes) -> None:
        os.write(self._master, b"".join(keys))

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        self.screen.resize(rows, columns)

    def lines(self) -> list[str]:
        """All lines, those that have scrolled away included, without spaces at the end."""
        gone = ["".join(row[column].data for column in range(self.screen.columns)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*gone, *self.screen.display]]

    def text(self) -> str:
        return "\n".join(self.lines())

    def wait_for(self, text: str, times: int = 1) -> None:
        """Until `text` is there so often, on the screen or above."""
        self._wait_until(lambda: self.text().count(text) >= times, f"{text!r} ({times} times)")

    def wait_until_gone(self, text: str) -> None:
        self._wait_until(lambda: text not in self.text(), f"the end of {text!r}")

    def say(self, *keys: bytes) -> None:
        """Type at the prompt, not before."""
        self._wait_until(self._is_at_prompt, "the prompt")
        self.type(*keys)

    def exit_code(self) -> int:
        """Reads on meanwhile: a process may wait for its terminal."""
        deadline = time.monotonic() + TIMEOUT_S
        while self.process.poll() is None and time.monotonic() < deadline:
            self._read(0.05)
        return self.process.wait(0)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._master)

    def _is_at_prompt(self) -> bool:
        cursor = self.screen.cursor
        line = self.screen.display[cursor.y]
        return line.startswith(PROMPT) and not line[len(PROMPT) :].strip() and cursor.x == len(PROMPT)

    def _wait_until(self, is_there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + TIMEOUT_S
        while not is_there():
            assert self._read(max(deadline - time.monotonic(), 0)), f"{what} does not come; there is:\n{self.text()}"

    def _read(self, timeout_s: float) -> bool:
        """Whether anything came."""
        ready, _, _ = select.select([self._master], [], [], timeout_s)
        if not ready:
            return False
        try:
            data = os.read(self._master, 1 << 16)
        except OSError:  # Linux's way to say that the other side is closed
            return False
        self.written += data
        self._stream.feed(data)
        return bool(data)
