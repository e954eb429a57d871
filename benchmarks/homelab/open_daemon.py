"""`tpid`, opened to the network of a host: python open_daemon.py LISTEN ADDRESS,... --config FILE

The daemon keeps to loopback until devices can be paired. In a home on one machine no stranger is on the network, so it
listens on LISTEN here, dials any address, and announces itself at the ADDRESSes.
"""

import os
import sys
from pathlib import Path

from tpid.cluster.settings import ClusterSettings
from tpid.comm.settings import CommSettings
from tpid.daemon import service
from tpid.daemon.config import Config
from tpid.daemon.main import main


def _open(listen: str, addresses: tuple[str, ...]) -> None:
    def settings(config: Config) -> ClusterSettings:
        return ClusterSettings(
            name=config.cluster,
            host=listen,
            port=config.port,
            static_peers=config.peers,
            mdns=config.discovery,
            mdns_interfaces=addresses,
            comm=CommSettings(allow_unencrypted_network=True),
        )

    service._cluster_settings = settings


if __name__ == "__main__":
    _open(sys.argv[1], tuple(sys.argv[2].split(",")))
    del sys.argv[1:3]
    sys.path.append(str(Path(__file__).parents[1]))  # last: what is beside this program must not hide anything
    if float(os.environ.get("HOMELAB_SLOW", "1")) > 1:
        from homelab import slow

        slow.install(float(os.environ["HOMELAB_SLOW"]))
    if "HOMELAB_PLAN" in os.environ:
        from homelab import plan_modes

        plan_modes.install(Path(os.environ["HOMELAB_PLAN"]))
    main()
