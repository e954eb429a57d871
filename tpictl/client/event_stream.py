"""Lines and server-sent events out of chunks of bytes, however these are cut. Sans-I/O."""

from tpictl.errors import OTHER_HINT
from tpid.errors import RemoteProtocolError

MAX_LINE_BYTES = 1 << 20  # the longest that the daemon sends, a plan over many devices, has a few KB


class LineSplitter:
    def __init__(self) -> None:
        self._rest = b""

    def push(self, data: bytes) -> list[str]:
        """The lines that `data` completes. Raises RemoteProtocolError."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if max(len(self._rest), *map(len, lines), 0) > MAX_LINE_BYTES:
            raise RemoteProtocolError(f"The daemon sent a line of more than {MAX_LINE_BYTES} bytes.", hint=OTHER_HINT)
        try:
            return [line.removesuffix(b"\r").decode() for line in lines]
        except UnicodeDecodeError:
            raise RemoteProtocolError("The daemon sent a line that is not UTF-8.", hint=OTHER_HINT) from None


class EventParser:
    """The data of server-sent events; their other fields are passed over, and so are comments."""

    def __init__(self) -> None:
        self._lines = LineSplitter()
        self._data: list[str] = []

    def push(self, data: bytes) -> list[str]:
        """The events that `data` completes. Raises RemoteProtocolError."""
        events = []
        for line in self._lines.push(data):
            if line:
                self._add(line)
            elif self._data:
                events.append("\n".join(self._data))
                self._data.clear()
        return events

    def _add(self, line: str) -> None:
        field, _, value = line.partition(":")
        if field == "data":
            self._data.append(value.removeprefix(" "))
            if sum(map(len, self._data)) > MAX_LINE_BYTES:
                raise RemoteProtocolError(
                    f"The daemon sent an event of more than {MAX_LINE_BYTES} characters.", hint=OTHER_HINT
                )
