"""Which pieces of a pack are here: one bit for each unit, and one for each layer's norms and biases."""

import json
import re
from collections.abc import Iterable, Mapping
from typing import Final, Self

from tpid.errors import PackError, TpidError
from tpid.model.jsonfile import parse_json_object
from tpid.pack.geometry import Block, Half, UnitRange
from tpid.pack.manifest import Manifest
from tpid.pack.pieces import Piece

MAX_PRESENCE_BYTES: Final = 1 << 20  # of the file; a 70B model takes 4 kB
_MAX_VALUES: Final = 1 << 12
_MAX_KEYS: Final = 8
_VERSION: Final = 1
_MASK: Final = re.compile(r"[0-9a-f]{1,8192}")
_NAMES: Final[Mapping[Half | None, str]] = {None: "vectors", Half.ATTN: "attn", Half.FFN: "ffn"}


class Presence:
    """What is noted here is on the disk and was compared with its digest."""

    def __init__(self, manifest: Manifest) -> None:
        """Nothing is here."""
        layers = range(manifest.spec.n_layers)
        self._geometry = {(layer, half): manifest.geometry(Block(layer, half)) for layer in layers for half in Half}
        self._layers = layers
        self._masks: dict[tuple[int, Half | None], int] = {}

    @classmethod
    def whole(cls, manifest: Manifest) -> Self:
        presence = cls(manifest)
        for layer in presence._layers:
            for part in _NAMES:
                presence._masks[layer, part] = (1 << presence._n_units(layer, part)) - 1
        return presence

    @classmethod
    def decode(cls, data: bytes, manifest: Manifest, where: str) -> Self:
        """Raises PackError for anything that `encode` cannot have written about a pack of this manifest."""
        presence = cls(manifest)
        try:
            content = parse_json_object(data, where, _MAX_VALUES, _MAX_KEYS)
        except TpidError as error:
            raise PackError(error.message) from error
        if content.keys() != {"presence_version", *_NAMES.values()} or content["presence_version"] != _VERSION:
            raise PackError(f"{where} is no map of units of version {_VERSION}.")
        for part, name in _NAMES.items():
            masks = content[name]
            if not isinstance(masks, list) or len(masks) != manifest.spec.n_layers:
                raise PackError(f"{where} does not tell {name} of {manifest.spec.n_layers} layers.")
            for layer, text in enumerate(masks):
                if not isinstance(text, str) or not _MASK.fullmatch(text):
                    raise PackError(f"{where}: {name} of layer {layer} is no mask of units.")
                mask = int(text, 16)
                if mask >> presence._n_units(layer, part):
                    raise PackError(f"{where}: {name} of layer {layer} has more units than the pack.")
                presence._masks[layer, part] = mask
        return presence

    def encode(self) -> bytes:
        masks = {
            name: [f"{self._masks.get((layer, part), 0):x}" for layer in self._layers] for part, name in _NAMES.items()
        }
        return json.dumps({"presence_version": _VERSION, **masks}).encode()

    def __contains__(self, piece: Piece) -> bool:
        return piece.unit >= 0 and bool(self._masks.get((piece.layer, piece.half), 0) >> piece.unit & 1)

    def add(self, piece: Piece) -> None:
        """Raises ValueError for a piece that the pack does not have."""
        if piece.layer not in self._layers or not 0 <= piece.unit < self._n_units(piece.layer, piece.half):
            raise ValueError(f"the pack has no {piece}")
        key = piece.layer, piece.half
        self._masks[key] = self._masks.get(key, 0) | 1 << piece.unit

    @property
    def layers(self) -> list[int]:
        """Of which something is here."""
        return sorted({layer for (layer, _), mask in self._masks.items() if mask})

    def forget(self, layer: int) -> None:
        """Nothing of it is here any more."""
        for part in _NAMES:
            self._masks.pop((layer, part), None)

    def missing(self, pieces: Iterable[Piece]) -> list[Piece]:
        return [piece for piece in pieces if piece not in self]

    def in_every_layer(self, half: Half) -> UnitRange:
        """The longest run of units that every layer has, the first of these; what a share could be made of."""
        common = -1
        for layer in self._layers:
            common &= self._masks.get((layer, half), 0)
        longest = UnitRange(0, 0)
        start = 0
        while common >> start:
            if common >> start & 1:
                stop = start
                while common >> stop & 1:
                    stop += 1
                if stop - start > len(longest):
                    longest = UnitRange(start, stop)
                start = stop
            else:
                start += 1
        return longest

    @property
    def size_bytes(self) -> int:
        """Of the units that are here; norms and biases hardly count."""
        return sum(
            mask.bit_count() * self._geometry[layer, half].stride_bytes
            for (layer, half), mask in self._masks.items()
            if half is not None
        )

    def _n_units(self, layer: int, half: Half | None) -> int:
        return self._geometry[layer, half].n_units if half is not None else 1
