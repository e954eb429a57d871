"""The files of a pack: which tensors each holds, in which order."""

from collections.abc import Mapping
from dataclasses import dataclass

from tpid.model.inventory import layer_vector_shapes
from tpid.model.spec import ModelSpec
from tpid.pack.geometry import UnitGeometry


@dataclass(frozen=True, slots=True)
class FileLayout:
    """Units first, so that each starts at a multiple of 4096; fp32 vectors behind them."""

    units: Mapping[str, UnitGeometry]  # tensor name -> U8 [n_units, stride]
    vectors: Mapping[str, int]  # tensor name -> F32 [size]

    @property
    def size_bytes(self) -> int:
        """Without the header."""
        return sum(g.size_bytes for g in self.units.values()) + 4 * sum(self.vectors.values())

    def tensors(self) -> list[tuple[str, str, tuple[int, ...]]]:
        """(name, safetensors dtype, shape), in the order of their bytes."""
        units = [(name, "U8", (g.n_units, g.stride_bytes)) for name, g in self.units.items()]
        return [*units, *((name, "F32", (size,)) for name, size in self.vectors.items())]


def layer_layout(spec: ModelSpec, layer: int, attn: UnitGeometry, ffn: UnitGeometry) -> FileLayout:
    vectors = {name: size for name, (size,) in sorted(layer_vector_shapes(spec, spec.layer(layer)).items())}
    return FileLayout({"attn.units": attn, "ffn.units": ffn}, vectors)


def embed_layout(spec: ModelSpec, geometry: UnitGeometry) -> FileLayout:
    """The final norm lies here: both are only for devices that may coordinate."""
    return FileLayout({"embed.units": geometry}, {"final_norm": spec.hidden_size})


def head_layout(geometry: UnitGeometry) -> FileLayout:
    return FileLayout({"head.units": geometry}, {})
