"""Errors that came from the daemon."""

from collections.abc import Mapping
from typing import Any

from tpid.errors import TpidError

# Where what came is nothing that a daemon of this version says.
OTHER_HINT = "Is the socket that of tpid? If tpid was upgraded, restart it: it and tpictl may differ."


class RemoteError(TpidError):
    """An error of the daemon, as it told it."""

    code = "remote"

    def __init__(self, message: str, *, remote_code: str, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.remote_code = remote_code  # of the leaf of tpid.errors that was raised there


def remote_error(body: object) -> RemoteError:
    """From the `error` of an answer; total, whatever it is."""
    fields: Mapping[str, Any] = body if isinstance(body, dict) else {}
    code, message, hint = fields.get("code"), fields.get("message"), fields.get("hint")
    return RemoteError(
        message if isinstance(message, str) and message else "The daemon has met a fault and gave no reason.",
        remote_code=code if isinstance(code, str) else "internal",
        hint=hint if isinstance(hint, str) else None,
    )


def describe(error: TpidError) -> dict[str, str | None]:
    """For --json. The code is that of the daemon's error where it came from there."""
    code = error.remote_code if isinstance(error, RemoteError) else error.code
    return {"code": code, "message": error.message, "hint": error.hint}
