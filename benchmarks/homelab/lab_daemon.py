"""`tpid` with what only a laboratory has, by environment variables: python lab_daemon.py --config FILE

variable           what it does
-----------------  -----------------------------------------------------------------------------------------
HOMELAB_SLOW       cores that take so many times longer
HOMELAB_PLAN       plans as `plan_modes` makes them, by the file of that name
HOMELAB_PROTOCOL   the version of the protocol that it speaks, as tpid of another age would
HOMELAB_PLAIN      connections without TLS, to be compared with those that have it: the devices are told by `peers`
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

from tpid.cluster.cluster import Cluster
from tpid.cluster.home import Home
from tpid.cluster.network import NetworkSettings
from tpid.cluster.settings import ClusterSettings
from tpid.comm.settings import CommSettings
from tpid.daemon import service
from tpid.daemon.main import main
from tpid.device import DeviceProfile

VARIABLES = ("HOMELAB_SLOW", "HOMELAB_PLAN", "HOMELAB_PROTOCOL", "HOMELAB_PLAIN")


def _plain(settings: ClusterSettings, profile: DeviceProfile, home: Home) -> Cluster:
    opened = replace(
        settings,
        name="laboratory",
        host="0.0.0.0",
        mdns=False,
        comm=CommSettings(allow_unencrypted_network=True),
        network=NetworkSettings(stays_on_loopback=True),
    )
    return Cluster(opened, profile)


def _speak(version: int) -> None:
    """Each module has the number by its own name."""
    for name, module in list(sys.modules.items()):
        if name.startswith("tpid.") and "PROTOCOL_VERSION" in vars(module):
            vars(module)["PROTOCOL_VERSION"] = version


if __name__ == "__main__":
    sys.path.append(str(Path(__file__).parents[1]))  # last: what is beside this program must not hide anything
    if float(os.environ.get("HOMELAB_SLOW", "1")) > 1:
        from homelab import slow

        slow.install(float(os.environ["HOMELAB_SLOW"]))
    if "HOMELAB_PLAN" in os.environ:
        from homelab import plan_modes

        plan_modes.install(Path(os.environ["HOMELAB_PLAN"]))
    if "HOMELAB_PROTOCOL" in os.environ:
        _speak(int(os.environ["HOMELAB_PROTOCOL"]))
    if "HOMELAB_PLAIN" in os.environ:
        vars(service)["Cluster"] = _plain
    main()
