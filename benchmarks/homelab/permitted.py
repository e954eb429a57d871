"""Whether a home can be built here."""

import functools
import os
import shutil
from pathlib import Path

from homelab.builds import compiler
from homelab.programs import LabError, run

_PROGRAMS = ("ip", "nsenter", "setpriv", "mount", "umount")


@functools.cache
def why_not() -> str | None:
    """What is missing for a home on this machine, in words for a person; None if nothing is."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return "a home of hosts needs root, for network namespaces"
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"a home of hosts needs {', '.join(missing)} (iproute2, util-linux)"
    if compiler() is None:
        return "a home of hosts needs a C compiler, for its switch"
    if not Path("/dev/net/tun").exists():
        return "a home of hosts needs /dev/net/tun"
    return _why_no_namespace()


def _why_no_namespace() -> str | None:
    name = f"tpid-try-{os.getpid()}"
    try:
        run("ip", "netns", "add", name)
        try:
            run("ip", "-n", name, "tuntap", "add", "dev", "eth0", "mode", "tap")
        finally:
            run("ip", "netns", "del", name)
    except LabError as error:
        return f"a home of hosts is not permitted here: {error}"
    return None
