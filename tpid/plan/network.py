"""What the exchange of partial sums costs over the links between devices, as they were measured.

An exchange by the star is a round trip between the hub and its farthest leaf: PARTIAL there, SUM back. Beside the way
itself, the sums leave the hub one behind the other, and each message takes its time of the cores.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from tpid.device import DeviceId, LinkCost

ALLREDUCES_PER_LAYER = 2


UNKNOWN = LinkCost()


@dataclass(frozen=True, slots=True)
class Network:
    """The links of a home, by the pair of devices; the lower id first."""

    links: Mapping[tuple[DeviceId, DeviceId], LinkCost] = field(default_factory=dict)

    def between(self, one: DeviceId, other: DeviceId) -> LinkCost:
        return self.links.get(pair_of(one, other), UNKNOWN)


NO_NETWORK = Network()


def pair_of(one: DeviceId, other: DeviceId) -> tuple[DeviceId, DeviceId]:
    return (one, other) if one <= other else (other, one)


def star_s(network: Network, hub: DeviceId, leaves: Iterable[DeviceId], payload_bytes: int) -> float:
    """Of one exchange by the star, where all ranks begin at the same time."""
    links = [network.between(hub, leaf) for leaf in leaves]
    if not links:
        return 0.0
    wires_s = [link.wire_s(payload_bytes) for link in links]
    messages_s = [link.message_s for link in links]
    # The round trip has one message and its answer in it; the slowest partial comes while no sum is on its way.
    return max(link.rtt_s for link in links) + sum(wires_s) + max(wires_s) + sum(messages_s) - max(messages_s)


def pass_link_s(
    network: Network, devices: Collection[DeviceId], n_layers: int, token_bytes: int, n_tokens: int
) -> float:
    """Of all exchanges of a pass of `n_tokens`; the first of `devices` coordinates.

    START rides with the first exchange: it leaves the hub when the last pass's sum has, or takes the place of a sum.
    """
    hub, *leaves = devices
    return ALLREDUCES_PER_LAYER * n_layers * star_s(network, hub, leaves, token_bytes * n_tokens)
