"""Programs of the system: run to their end, or started so that they cannot outlive this process."""

import os
import subprocess
from collections.abc import Sequence


class LabError(Exception):
    """The home cannot be built, or a fault not made; the message says why."""


def run(*words: object, check: bool = True) -> str:
    """What the program wrote. Raises LabError with its words if it fails, unless `check` is off."""
    command = [str(word) for word in words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise LabError(f"{command[0]} cannot be run: {error.strerror}.") from error
    if check and done.returncode != 0:
        raise LabError(f"`{' '.join(command)}` failed: {done.stderr.strip() or done.stdout.strip()}")
    return done.stdout


def ends_with_us(command: Sequence[str]) -> list[str]:
    """`command`, killed by the kernel when the thread that started it ends, however that ends."""
    # Who has ended before the kernel was told is not our parent any more.
    still_ours = ["sh", "-c", '[ "$PPID" = "$0" ] && exec "$@"', str(os.getpid())]
    return ["setpriv", "--pdeathsig", "KILL", "--", *still_ours, *command]
