"""What a cluster is told at its start."""

from dataclasses import dataclass, field

from tpid.cluster.backoff import Backoff
from tpid.cluster.lease import ElectionSettings
from tpid.cluster.network import NetworkSettings
from tpid.comm.settings import CommSettings


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    name: str  # of the cluster where there is no home: 1 to 63 printable characters
    host: str = "127.0.0.1"  # to listen on always; `network` says where else
    port: int = 0  # 0: any free one; mDNS tells it
    static_peers: tuple[str, ...] = ()  # host:port each, for networks without multicast
    mdns: bool = True
    advertise_minimal: bool = False  # whether mDNS keeps the device's numbers back
    network: NetworkSettings = field(default_factory=NetworkSettings)
    comm: CommSettings = field(default_factory=CommSettings)
    election: ElectionSettings = field(default_factory=ElectionSettings)
    backoff: Backoff = field(default_factory=Backoff)
    quiet_s: float = 2.0  # that a prompt waits for devices that do not say whether they give their lease

    def __post_init__(self) -> None:
        """Raises ValueError where a stall that a connection bears would cost a lease."""
        if self.election.ttl_s < self.comm.silence_timeout_s + self.election.renew_s:
            raise ValueError(
                f"A lease of {self.election.ttl_s:g} s must outlast a silence of {self.comm.silence_timeout_s:g} s "
                f"and a renewal of {self.election.renew_s:g} s."
            )
