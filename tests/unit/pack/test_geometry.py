from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.specs import SMOLLM2
from tpid.model.gguf.types import GgmlType
from tpid.model.inventory import matrix_shapes
from tpid.model.weights import CODINGS, Format
from tpid.pack.geometry import (
    ALIGN_BYTES,
    ATTN_MATRICES,
    FFN_MATRICES,
    MIN_FFN_UNITS,
    Half,
    attn_geometry,
    block_geometry,
    ffn_geometry,
    ffn_unit_columns,
    vocab_geometry,
)


@given(st.integers(1, 100_000))
def test_ffn_units_cover_the_ffn_with_less_than_a_tile_to_spare(ffn_size: int) -> None:
    width = ffn_unit_columns(ffn_size)
    n_units = -(-ffn_size // width)
    assert width % 32 == 0
    assert n_units * width - ffn_size < 32
    assert n_units >= MIN_FFN_UNITS or width == 32


@pytest.mark.parametrize(
    ("ffn_size", "width"),
    [(1536, 32), (5632, 128), (11008, 256), (14336, 256), (28672, 512), (4864, 32 * 2), (13824, 256)],
)
def test_ffn_unit_widths_of_well_known_models(ffn_size: int, width: int) -> None:
    assert ffn_unit_columns(ffn_size) == width


def test_an_attention_unit_is_one_kv_group_with_its_query_heads() -> None:
    geometry = attn_geometry(SMOLLM2, dict.fromkeys("qkvo", Format.W4))
    assert geometry.n_units == 3
    assert [(m.name, m.rows, m.columns) for m in geometry.matrices] == [
        ("q", 192, 576),
        ("k", 64, 576),
        ("v", 64, 576),
        ("o", 576, 192),
    ]
    assert geometry.matrix("k").offset_bytes == 192 * 576 * 5 // 8


@given(
    st.sampled_from(list(Format)),
    st.integers(1, 5).map(lambda n: n * 8),
    st.integers(1, 300),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_matrices_of_a_unit_lie_behind_each_other_and_strides_are_aligned(
    format: Format, head_dim: int, hidden: int, groups: int, kv_heads: int
) -> None:
    spec = replace(
        SMOLLM2,
        hidden_size=hidden,
        head_dim=head_dim,
        n_kv_heads=kv_heads,
        n_heads=kv_heads * groups,
        ffn_size=hidden * 3,
        vocab_size=hidden + 1,
    )
    formats = dict.fromkeys(("q", "k", "v", "o", "gate", "up", "down"), format)
    for geometry in (attn_geometry(spec, formats), ffn_geometry(spec, formats), vocab_geometry(spec, format)):
        offset = 0
        for matrix in geometry.matrices:
            assert matrix.offset_bytes == offset
            offset += matrix.size_bytes
        assert offset <= geometry.stride_bytes < offset + ALIGN_BYTES
        assert geometry.stride_bytes % ALIGN_BYTES == 0


@pytest.mark.parametrize("format", [format for format in CODINGS if CODINGS[format].super_block])
@pytest.mark.parametrize(
    ("hidden_size", "n_kv_heads", "heads_per_group", "ffn_size"),
    [(2048, 4, 8, 5632), (3072, 8, 3, 8192), (4096, 32, 1, 11008), (4096, 8, 4, 14336), (5120, 40, 1, 13824)],
)
def test_models_in_super_blocks_are_hardly_larger_than_their_files(
    hidden_size: int, n_kv_heads: int, heads_per_group: int, ffn_size: int, format: Format
) -> None:
    """Padding and the factors of super-blocks that units cut included."""
    spec = replace(
        SMOLLM2, n_layers=24, tied_head=False, hidden_size=hidden_size, n_kv_heads=n_kv_heads,
        n_heads=n_kv_heads * heads_per_group, head_dim=hidden_size // (n_kv_heads * heads_per_group), ffn_size=ffn_size,
    )  # fmt: skip
    type = GgmlType[format.name]
    weights = sum(rows * columns for rows, columns in matrix_shapes(spec).values())
    formats = dict.fromkeys((*ATTN_MATRICES, *FFN_MATRICES), format)
    pack_bytes = spec.n_layers * sum(block_geometry(spec, half, formats).size_bytes for half in Half)
    pack_bytes += 2 * vocab_geometry(spec, format).size_bytes
    assert pack_bytes <= 1.02 * weights * type.block_bytes // type.block_weights
