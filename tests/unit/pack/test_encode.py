from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpid.errors import UnsupportedModelError
from tpid.model.weights import F32, ROUNDED_TO, Format, HalfMatrix, convert
from tpid.pack import encode
from tpid.pack.encode import block_formats, encode_units, vocab_format
from tpid.pack.geometry import Half, block_geometry, vocab_geometry

Sources = Callable[..., Any]
Join = Callable[..., F32]

formats = st.sampled_from(list(Format))


@st.composite
def specs(draw: st.DrawFn) -> dict[str, Any]:
    n_kv_heads = draw(st.integers(1, 4))
    return {
        "n_layers": 1,
        "hidden_size": draw(st.one_of(st.integers(1, 130), st.just(256))),
        "n_kv_heads": n_kv_heads,
        "n_heads": n_kv_heads * draw(st.integers(1, 3)),
        "head_dim": draw(st.integers(1, 20)) * 2,
        "ffn_size": draw(st.one_of(st.integers(1, 200), st.just(2560 + 32))),
        "vocab_size": draw(st.integers(1, 1300)),
    }


@settings(max_examples=60, deadline=None)
@given(
    specs(),
    st.dictionaries(st.sampled_from(["q", "k", "v", "o", "gate", "up", "down"]), formats),
    st.tuples(st.sampled_from([None, *ROUNDED_TO]), st.sampled_from([1, 700, 4 << 20])),
)
def test_units_hold_the_matrices_of_the_source(
    source_of: Sources,
    join_units: Join,
    spec: dict[str, Any],
    natural: dict[str, Format],
    options: tuple[Format | None, int],
) -> None:
    """Whatever the sizes, formats and chunks."""
    requested, chunk_weights = options
    source = source_of(natural, **spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encode, "CHUNK_WEIGHTS", chunk_weights)
        for half in Half:
            geometry = block_geometry(source.spec, half, block_formats(source, 0, half, requested))
            tensors = {matrix.name: f"layers.0.{matrix.name}" for matrix in geometry.matrices}
            units = encode_units(source, geometry, tensors, 0, geometry.n_units)
            assert units.shape == (geometry.n_units, geometry.stride_bytes)
            for matrix in geometry.matrices:
                _check(join_units(units, geometry, matrix.name), source, tensors[matrix.name], matrix.format)


@settings(max_examples=30, deadline=None)
@given(specs(), st.tuples(formats, st.sampled_from([None, *ROUNDED_TO])), st.integers(1, 3))
def test_a_vocabulary_may_be_encoded_in_pieces(
    source_of: Sources, join_units: Join, spec: dict[str, Any], options: tuple[Format, Format | None], step: int
) -> None:
    natural, requested = options
    source = source_of({"embed": natural}, **spec)
    geometry = vocab_geometry(source.spec, vocab_format(source, "embed", requested))
    pieces = [
        encode_units(source, geometry, {"rows": "embed"}, start, min(start + step, geometry.n_units))
        for start in range(0, geometry.n_units, step)
    ]
    units = np.concatenate(pieces)
    _check(join_units(units, geometry, "rows"), source, "embed", geometry.matrices[0].format)


def _check(found: F32, source: Any, name: str, format: Format) -> None:
    rows, columns = source.matrices[name].shape
    expected = convert(source.matrices[name], format).dequantize()[:, :columns]
    np.testing.assert_array_equal(found[:rows, :columns], expected)
    assert not found[rows:].any()
    # A w4 group that is cut by the end of the matrix need not hold an exact zero; no input meets it but a zero.
    exact = -(-columns // 32) * 32 if format is Format.W4 else columns
    assert not found[:, exact:].any()


def test_formats_are_as_published_where_units_can_hold_them(source_of: Sources) -> None:
    mixed = {"q": Format.W4, "k": Format.W8, "v": Format.BF16, "o": Format.W8, "down": Format.W4}
    source = source_of(mixed, ffn_size=64)
    assert block_formats(source, 0, Half.ATTN, None) == {name: mixed[name] for name in "qkvo"}
    assert block_formats(source, 0, Half.FFN, None) == {"gate": Format.F16, "up": Format.F16, "down": Format.W4}


@pytest.mark.parametrize("grouped", [Format.W4, Format.W4S, Format.W8])
def test_columns_that_cut_a_group_become_f16(source_of: Sources, grouped: Format) -> None:
    source = source_of({"o": grouped}, n_heads=2, head_dim=48, n_kv_heads=2)
    assert source.natural_format("layers.0.o") is grouped
    assert block_formats(source, 0, Half.ATTN, None)["o"] is Format.F16
    assert block_formats(source, 0, Half.ATTN, grouped)["q"] is grouped


def test_a_vocabulary_is_never_squeezed_into_4_bits_on_request(source_of: Sources) -> None:
    source = source_of(default=Format.BF16)
    wanted = {
        None: Format.BF16,
        Format.W4: Format.W8,
        Format.W4S: Format.W8,
        Format.W8: Format.W8,
        Format.F16: Format.F16,
    }
    assert {requested: vocab_format(source, "embed", requested) for requested in wanted} == wanted


@pytest.mark.parametrize("requested", [Format.W4, Format.W8, Format.F16])
def test_weights_beyond_a_format_are_refused(source_of: Sources, requested: Format) -> None:
    source = source_of(default=Format.BF16)
    source.matrices["layers.0.v"].bits[20, 3] = 0x7F00  # 1.7e38
    geometry = block_geometry(source.spec, Half.ATTN, block_formats(source, 0, Half.ATTN, requested))
    tensors = {name: f"layers.0.{name}" for name in "qkvo"}
    with pytest.raises(UnsupportedModelError, match=rf"layers\.0\.v has weights beyond what {requested} can hold"):
        encode_units(source, geometry, tensors, 0, geometry.n_units)


def test_weights_that_fit_a_format_are_not(source_of: Sources) -> None:
    source = source_of(default=Format.BF16)
    matrix = source.matrices["layers.0.v"]
    assert isinstance(matrix, HalfMatrix)
    matrix.bits[20, 3] = 0x477F  # 65280
    geometry = block_geometry(source.spec, Half.ATTN, block_formats(source, 0, Half.ATTN, Format.F16))
    encode_units(source, geometry, {name: f"layers.0.{name}" for name in "qkvo"}, 0, geometry.n_units)
