"""`tpictl version`: what runs here, and on the devices that the daemon sees."""

from tpictl.client.calls import get_status
from tpictl.client.connection import Client
from tpictl.outcome import print_json
from tpid import __version__
from tpid.errors import DaemonUnreachableError


def run_version(client: Client, *, as_json: bool) -> None:
    """Without a daemon the own version is all there is to say. Raises TpidError."""
    try:
        devices = {device.profile.name: device.profile.version for device in get_status(client).cluster.devices}
    except DaemonUnreachableError:
        devices = {}
    if as_json:
        print_json({"tpictl": __version__, "devices": devices})
        return
    print(f"tpictl {__version__}")
    for name, version in devices.items():
        print(f"tpid {version} on {name}")
    if not devices:
        print("No daemon runs here.")
