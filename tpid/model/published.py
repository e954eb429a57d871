"""Where a model's tensors lie in its published files: under which name, from which row on, and in which order."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpid.model.families.family import RowOrder
from tpid.model.inventory import Shape, matrix_shapes, vector_shapes
from tpid.model.spec import ModelSpec
from tpid.model.weightfile import U8

_TURNED = ("q", "k", "q_bias", "k_bias", "q_norm", "k_norm")


@dataclass(frozen=True, slots=True)
class Names:
    """Of one kind of files; those of a layer follow its `prefix`."""

    whole: Mapping[str, str]  # by embed, head, final_norm
    prefix: str
    in_layer: Mapping[str, str]

    def with_family(self, in_layer: Mapping[str, str]) -> "Names":
        return Names(self.whole, self.prefix, {**self.in_layer, **in_layer})

    def of(self, name: str) -> str:
        """The published name of a tensor of tpid.model.source. Raises KeyError."""
        if name in self.whole:
            return self.whole[name]
        _, layer, kind = name.split(".")
        return self.prefix.format(layer) + self.in_layer[kind]


@dataclass(frozen=True, slots=True)
class Place:
    tensor: str
    first_row: int  # others may lie before it
    shape: Shape


def places(spec: ModelSpec, names: Names) -> dict[str, Place]:
    """Of all tensors of the model by the names of tpid.model.source; those of one name lie one behind the other."""
    found: dict[str, Place] = {}
    rows: dict[str, int] = {}
    for name, shape in {**matrix_shapes(spec), **vector_shapes(spec)}.items():
        tensor = names.of(name)
        found[name] = Place(tensor, rows.get(tensor, 0), shape)
        rows[tensor] = found[name].first_row + shape[0]
    return found


def tensor_shapes(found: Mapping[str, Place]) -> dict[str, Shape]:
    """What the published files must hold, by published name."""
    return {place.tensor: (place.first_row + place.shape[0], *place.shape[1:]) for place in found.values()}


def row_order(spec: ModelSpec, name: str, order: RowOrder) -> NDArray[np.intp] | None:
    """Where the rows of a head lie in the published one, [head_dim]; None where nothing moves.

    Dimension i turns with i + head_dim / 2 in a pack. Where RoPE turns a part of a head, the others take the ends of
    both halves: their frequency is 0.
    """
    if name.rpartition(".")[2] not in _TURNED:
        return None
    rope = spec.layer(int(name.split(".")[1])).rope
    rotary_dims = spec.head_dim if rope is None or rope.rotary_dims is None else rope.rotary_dims
    if order is RowOrder.HALVES and rotary_dims == spec.head_dim:
        return None
    rows = np.arange(spec.head_dim, dtype=np.intp)
    turned, still = rows[:rotary_dims], rows[rotary_dims:]
    halves = turned.reshape(2, -1) if order is RowOrder.HALVES else turned.reshape(-1, 2).T
    return np.concatenate([halves, still.reshape(2, -1)], axis=1).reshape(-1)


def ordered_rows(order: NDArray[np.intp], start_row: int, stop_row: int) -> NDArray[np.intp]:
    """Where the rows start…stop lie, of a matrix of heads that each follow `order`."""
    head, row = np.divmod(np.arange(start_row, stop_row, dtype=np.intp), len(order))
    found: NDArray[np.intp] = head * len(order) + order[row]
    return found


def read_ordered(
    read: Callable[[int, int], U8], place: Place, order: NDArray[np.intp] | None, start_row: int, stop_row: int
) -> U8:
    """The rows start…stop of a tensor by `read(first, last)` of the published one, [rows, row_bytes].

    Moves whole rows, so it is exact for quantized ones; reads the heads that the rows belong to.
    """
    at = place.first_row
    if order is None:
        return read(at + start_row, at + stop_row)
    first = start_row // len(order) * len(order)
    last = -(-stop_row // len(order)) * len(order)
    return read(at + first, at + last)[ordered_rows(order, start_row, stop_row) - first]
