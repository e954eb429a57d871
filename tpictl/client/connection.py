"""HTTP to the daemon over its Unix socket: the one place of tpictl that speaks to anything.

Each call is one connection. Ending a stream early, be it by Ctrl-C, closes the connection, and
that is what ends the work in the daemon.
"""

import json
import socket
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPConnection, HTTPException, HTTPResponse
from pathlib import Path
from typing import Any

from tpictl.client.event_stream import EventParser, LineSplitter
from tpictl.errors import OTHER_HINT, remote_error
from tpid.errors import DaemonUnreachableError, RemoteProtocolError, TpidError

CONNECT_TIMEOUT_S = 5.0
ANSWER_TIMEOUT_S = 30.0  # for what the daemon has at hand; streams last as long as the work
MAX_ANSWER_BYTES = 16 << 20
CHUNK_BYTES = 1 << 16
START_HINT = "Start it with: tpid"

_END_OF_EVENTS = "[DONE]"


class Client:
    """Calls raise DaemonUnreachableError, RemoteError for the daemon's own errors, and RemoteProtocolError."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, target: str) -> object:
        """The JSON of an answer."""
        with self._exchange("GET", target, None, ANSWER_TIMEOUT_S) as response:
            return _parse(_read(response))

    def post(self, target: str, body: Mapping[str, object]) -> object:
        """The JSON of an answer."""
        with self._exchange("POST", target, body, ANSWER_TIMEOUT_S) as response:
            return _parse(_read(response))

    def lines(self, target: str, body: Mapping[str, object]) -> Generator[dict[str, Any], None, None]:
        """The objects of an answer with one JSON object a line. Close the iterator to end the work."""
        with self._exchange("POST", target, body, None) as response:
            splitter = LineSplitter()
            while data := response.read1(CHUNK_BYTES):
                for line in splitter.push(data):
                    yield _checked(_parse(line))

    def events(self, target: str, body: Mapping[str, object]) -> Generator[dict[str, Any], None, None]:
        """The objects of an answer in server-sent events. Close the iterator to end the work."""
        with self._exchange("POST", target, body, None) as response:
            parser = EventParser()
            while data := response.read1(CHUNK_BYTES):
                for event in parser.push(data):
                    if event == _END_OF_EVENTS:
                        return
                    yield _checked(_parse(event))
        raise self.ended_early()

    def ended_early(self) -> DaemonUnreachableError:
        return DaemonUnreachableError(
            f"The daemon at {self.path} went away before its answer was complete.",
            hint=f"Look at its log. {START_HINT}",
        )

    @contextmanager
    def _exchange(
        self, method: str, target: str, body: Mapping[str, object] | None, timeout_s: float | None
    ) -> Iterator[HTTPResponse]:
        """An answer with status 200, still to be read."""
        connection = _UnixConnection(self.path)
        try:
            connection.connect()
            connection.sock.settimeout(timeout_s)
            # A daemon that refuses a large body answers before it has read all of it.
            with suppress(BrokenPipeError, ConnectionResetError):
                payload = None if body is None else json.dumps(body).encode()
                connection.request(method, target, payload, {"Content-Type": "application/json"})
            with connection.getresponse() as response:
                if response.status != 200:
                    raise _refusal(response)
                yield response
        except TimeoutError:
            raise DaemonUnreachableError(
                f"The daemon at {self.path} has not answered within {timeout_s:g} s.", hint="Look at its log."
            ) from None
        except (OSError, HTTPException) as error:
            raise self.ended_early() from error
        finally:
            connection.close()


class _UnixConnection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        """Raises DaemonUnreachableError."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(CONNECT_TIMEOUT_S)
        try:
            self.sock.connect(str(self._path))
        except FileNotFoundError:
            raise DaemonUnreachableError(
                f"No daemon runs here: there is no socket {self._path}.", hint=START_HINT
            ) from None
        except ConnectionRefusedError:
            raise DaemonUnreachableError(f"No daemon listens on the socket {self._path}.", hint=START_HINT) from None
        except PermissionError:
            raise DaemonUnreachableError(
                f"The socket {self._path} belongs to another user.", hint="Run tpictl as the user whom tpid runs as."
            ) from None
        except OSError as error:  # of these, a path that is too long has no strerror
            reason = error.strerror or str(error)
            raise DaemonUnreachableError(
                f"The socket {self._path} cannot be used: {reason}.", hint="Give the daemon's socket with --socket."
            ) from None


def _read(response: HTTPResponse) -> bytes:
    data = response.read(MAX_ANSWER_BYTES + 1)
    if len(data) > MAX_ANSWER_BYTES:
        raise RemoteProtocolError(f"The daemon's answer has more than {MAX_ANSWER_BYTES} bytes.", hint=OTHER_HINT)
    return data


def _parse(data: bytes | str) -> object:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        raise RemoteProtocolError("The daemon's answer is not JSON.", hint=OTHER_HINT) from None


def _checked(item: object) -> dict[str, Any]:
    """An item of a stream. Raises RemoteError where it is an error."""
    if not isinstance(item, dict):
        raise RemoteProtocolError("The daemon's answer has an item that is not an object.", hint=OTHER_HINT)
    if "error" in item:
        raise remote_error(item["error"])
    return item


def _refusal(response: HTTPResponse) -> TpidError:
    """The error in an answer whose status is not 200."""
    try:
        body = _parse(_read(response))
    except RemoteProtocolError as error:
        return error
    return remote_error(body.get("error") if isinstance(body, dict) else None)
