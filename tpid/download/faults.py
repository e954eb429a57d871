"""What a source's refusal means, and how long to go on against faults that pass."""

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from tpid.errors import PullError

MAX_FAILURES = 6  # one after the other, without a byte in between
FIRST_PAUSE_S = 1.0  # doubled with each failure: 1, 2, 4, 8, 16 s
MAX_PAUSE_S = 300.0  # that a source may ask for; who asks for more is told to the owner

_TRY_LATER = "The same command goes on later from where this ended."

Tell = Callable[[str], None]


class PassingFaultError(Exception):
    """Worth another try, after `pause_s` where the source says so."""

    def __init__(self, what: str, pause_s: float | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.pause_s = pause_s


def refusal(status: int, headers: Mapping[str, str], where: str, *, has_token: bool) -> PullError | PassingFaultError:
    """What an answer of this status, which is not the file, means. `where` is what was asked for, as people know it."""
    if status == 429:
        return PassingFaultError(f"{where} has had too many requests", _retry_after_s(headers.get("Retry-After")))
    if status in (408, 425) or status >= 500:
        pause_s = _retry_after_s(headers.get("Retry-After"))
        return PassingFaultError(f"{where} answered with status {status}", pause_s)
    if status in (401, 403):
        return _not_allowed(headers.get("X-Error-Code", ""), where, has_token=has_token)
    if status in (404, 410):
        return PullError(f"There is no {where}.", hint="Check the spelling, and that it is still published.")
    return PullError(f"{where} cannot be fetched: status {status}.", hint="Look at it with a browser, then try again.")


def _not_allowed(error_code: str, where: str, *, has_token: bool) -> PullError:
    if error_code == "GatedRepo" and has_token:
        return PullError(
            f"{where} is gated, and the account of HF_TOKEN has not been let in.",
            hint="Open its page with a browser, accept the terms, and try again when access is granted.",
        )
    if error_code == "GatedRepo":
        return PullError(
            f"{where} is gated: its publisher asks who takes it.",
            hint="Accept the terms on its page, make a token in your account's settings, then HF_TOKEN=… tpictl pull …",
        )
    if has_token:
        return PullError(
            f"{where} does not exist, or HF_TOKEN may not read it.", hint="Check the spelling, and the token's rights."
        )
    return PullError(
        f"{where} does not exist, or is private.",
        hint="Check the spelling; for a private one set HF_TOKEN and try again.",
    )


class Persistence:
    """Waits between tries, for all that go on at once, and gives up after MAX_FAILURES without progress."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell
        self._failures = 0
        self._pause_end_s = 0.0  # of the loop's clock

    def progressed(self) -> None:
        self._failures = 0

    async def wait(self, fault: PassingFaultError) -> None:
        """Until another try is worth it. Raises PullError when it is not."""
        now_s = asyncio.get_running_loop().time()
        if now_s < self._pause_end_s:  # one fault of the network cuts all connections: it counts once
            await asyncio.sleep(self._pause_end_s - now_s)
            return
        self._failures += 1
        if self._failures >= MAX_FAILURES:
            raise PullError(f"{fault.what}, {self._failures} times in a row.", hint=_TRY_LATER) from fault
        pause_s = FIRST_PAUSE_S * 2 ** (self._failures - 1) if fault.pause_s is None else fault.pause_s
        if pause_s > MAX_PAUSE_S:
            raise PullError(
                f"{fault.what}; it asks to wait {pause_s / 60:.0f} minutes.", hint=f"Come back then. {_TRY_LATER}"
            ) from fault
        if fault.pause_s:
            self._tell(f"{fault.what}: going on in {pause_s:.0f} s.")
        self._pause_end_s = now_s + pause_s
        await asyncio.sleep(pause_s)


def _retry_after_s(value: str | None) -> float | None:
    """Seconds, or a date; None where there is neither."""
    if value is None:
        return None
    value = value.strip()
    if value.isascii() and value.isdigit():
        return float(min(int(value[:9]), 10**9))
    try:
        when = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC)
    return max((when - datetime.now(UTC)).total_seconds(), 0.0)
