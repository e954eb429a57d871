"""What a pass uses of a share, in its order: the halves of all layers, then, on the coordinator, slices of the head."""

from dataclasses import dataclass

from tpid.device import DeviceProfile
from tpid.errors import LoadError
from tpid.memory.residency import Item
from tpid.pack.geometry import Block, Share, UnitRange
from tpid.pack.reader import ByteRange, Pack
from tpid.plan.footprint import BACKENDS

# Large enough that a read and a call to the cores cost nothing beside it.
HEAD_SLICE_BYTES = 8 << 20


@dataclass(frozen=True, slots=True)
class Part:
    """One item of the cycle."""

    block: Block | None  # None: a slice of the head
    units: UnitRange
    packed_bytes: int
    weights: int

    def __str__(self) -> str:
        what = "head" if self.block is None else str(self.block)
        return f"units {self.units.start} to {self.units.stop} of {what}"

    def where(self, pack: Pack) -> ByteRange:
        """Raises PackError."""
        if self.block is not None:
            return pack.block_range(self.block, self.units)
        head, stride = pack.head_range(), pack.manifest.head_geometry.stride_bytes
        return ByteRange(head.path, head.offset + self.units.start * stride, self.packed_bytes)

    def item(self, device: DeviceProfile) -> Item:
        """As its backend holds it; the time is that of one token, which goes through all the weights once."""
        weight_bytes = BACKENDS[device.backend].weight_bytes
        held_bytes = self.packed_bytes if weight_bytes is None else self.weights * weight_bytes
        unpacked_bytes = 0 if weight_bytes is None else held_bytes
        return Item(self.packed_bytes, held_bytes / max(device.read_bytes_s, 1.0), unpacked_bytes)


def cycle_within(pack: Pack, share: Share, device: DeviceProfile, room_bytes: int, *, coordinator: bool) -> list[Part]:
    """The cycle where weights have so much room. Raises LoadError as `cycle_of`."""
    parts = cycle_of(pack, share, coordinator=coordinator)
    streams = sum(part.item(device).held_bytes for part in parts) > room_bytes
    return parts if streams else cycle_of(pack, share, coordinator=coordinator, streams=False)


def cycle_of(pack: Pack, share: Share, *, coordinator: bool, streams: bool = True) -> list[Part]:
    """If something streams, no slice of the head is larger than a block: it would decide how large the window must be.

    Raises LoadError for a share that the pack does not have: it comes from another device.
    """
    parts = []
    for block in pack.manifest.blocks():
        units, geometry = share.of(block.half), pack.geometry(block)
        if not 0 <= units.start <= units.stop <= geometry.n_units:
            raise LoadError(
                f"The plan asks for units {units.start} to {units.stop} of {block}, but {pack.directory} has "
                f"{geometry.n_units}.",
                hint="Import the same model on all devices.",
            )
        parts.append(Part(block, units, len(units) * geometry.stride_bytes, len(units) * geometry.weights_per_unit))
    if not coordinator:
        return parts
    block_bytes = [part.packed_bytes for part in parts if part.packed_bytes] if streams else []
    return parts + _head_slices(pack, min([HEAD_SLICE_BYTES, *block_bytes]))


def _head_slices(pack: Pack, slice_bytes: int) -> list[Part]:
    geometry, spec = pack.manifest.head_geometry, pack.spec
    per_slice = max(slice_bytes // geometry.stride_bytes, 1)
    rows = geometry.matrix("rows").rows
    slices = []
    for start in range(0, geometry.n_units, per_slice):
        units = UnitRange(start, min(start + per_slice, geometry.n_units))
        n_rows = min(len(units) * rows, spec.vocab_size - start * rows)
        slices.append(Part(None, units, len(units) * geometry.stride_bytes, n_rows * spec.hidden_size))
    return slices
