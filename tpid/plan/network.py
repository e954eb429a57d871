"""What the exchange of partial sums costs over the links between devices, as they were measured.

By the star it is a round trip between the hub and its farthest leaf: PARTIAL there, SUM back. By the direct exchange it
is one way between the two that are farthest from each other, but each sends to all. Beside the way itself, what leaves
a device goes one behind the other, and each message takes its time of the cores.
"""

from collections.abc import Iterable, Mapping, Sequence
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


def direct_s(network: Network, devices: Sequence[DeviceId], payload_bytes: int) -> float:
    """Of one direct exchange; infinite where a link is not known: it may not be there."""
    slowest_s = 0.0
    for device in devices:
        links = [network.between(device, other) for other in devices if other != device]
        if any(link.rtt_s <= 0 for link in links):
            return float("inf")
        messages_s = [link.message_s for link in links]
        # Half a round trip has half a message and its answer in it.
        hands_s = sum(messages_s) - max(messages_s) / 2
        one_way_s = max(link.rtt_s for link in links) / 2
        slowest_s = max(slowest_s, one_way_s + sum(link.wire_s(payload_bytes) for link in links) + hands_s)
    return slowest_s


@dataclass(frozen=True, slots=True)
class Exchanges:
    """What a pass exchanges."""

    n_layers: int
    token_bytes: int  # of a partial, on the wire
    direct: bool = True  # whether the direct exchange may be used

    def star_s(self, network: Network, devices: Sequence[DeviceId], n_tokens: int) -> float:
        """Of a pass by the star; the first of `devices` is the hub, which needs no sum back to go on.

        START takes the place of the last sum.
        """
        hub, *leaves = devices
        return ALLREDUCES_PER_LAYER * self.n_layers * star_s(network, hub, leaves, self.token_bytes * n_tokens)

    def direct_s(self, network: Network, devices: Sequence[DeviceId], n_tokens: int) -> float:
        """Of a pass by the direct exchange, START before it."""
        if len(devices) == 1 or not self.direct:
            return 0.0 if len(devices) == 1 else float("inf")
        return (ALLREDUCES_PER_LAYER * self.n_layers + 1) * direct_s(network, devices, self.token_bytes * n_tokens)

    def direct_tokens(self, network: Network, devices: Sequence[DeviceId], most: int) -> int:
        """The longest pass, in powers of two, for which the direct exchange is the quicker; 0 where it never is."""
        tokens = 0
        while (longer := max(2 * tokens, 1)) <= most:
            if self.direct_s(network, devices, longer) >= self.star_s(network, devices, longer):
                break
            tokens = longer
        return tokens

    def pass_s(self, network: Network, devices: Sequence[DeviceId], n_tokens: int, direct_tokens: int) -> float:
        """Of a pass of `n_tokens` where passes of up to `direct_tokens` go by the direct exchange."""
        if n_tokens <= direct_tokens:
            return self.direct_s(network, devices, n_tokens)
        return self.star_s(network, devices, n_tokens)

    def token_s(self, network: Network, devices: Sequence[DeviceId]) -> float:
        """Of a pass of one token by whichever is quicker."""
        return min(self.star_s(network, devices, 1), self.direct_s(network, devices, 1))
