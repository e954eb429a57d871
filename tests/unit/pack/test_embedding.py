import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tpid.errors import PackError
from tpid.model.weights import Format, convert
from tpid.pack.embedding import EmbeddingRows
from tpid.pack.writer import import_pack

Sources = Callable[..., Any]

VOCAB = 1300  # 3 units, the last one padded


@pytest.mark.parametrize("format", list(Format))
@pytest.mark.parametrize("hidden_size", [64, 50])
def test_rows_are_those_of_the_source(source_of: Sources, tmp_path: Path, format: Format, hidden_size: int) -> None:
    source = source_of({"embed": format}, vocab_size=VOCAB, hidden_size=hidden_size)
    pack = import_pack(source, tmp_path / "pack")
    expected = convert(source.matrices["embed"], pack.manifest.embed.format).dequantize()[:, :hidden_size]
    with EmbeddingRows(pack) as rows:
        everything = rows.gather(range(VOCAB))
        assert everything.dtype == np.float32
        np.testing.assert_array_equal(everything, expected)
        ids = [5, 5, 0, VOCAB - 1, 512, 511, 5]
        np.testing.assert_array_equal(rows.gather(ids), expected[ids])
        assert rows.gather([]).shape == (0, hidden_size)


@pytest.mark.parametrize("id", [-1, VOCAB, VOCAB + 1, 3 * 512, 10**12])
def test_a_token_that_the_model_does_not_have_is_refused(source_of: Sources, tmp_path: Path, id: int) -> None:
    pack = import_pack(source_of(vocab_size=VOCAB), tmp_path / "pack")
    with EmbeddingRows(pack) as rows, pytest.raises(PackError, match=f"holds 1300 tokens, {id} is none of them"):
        rows.gather([1, id])


def test_a_file_that_is_cut_while_it_is_open_is_named(source_of: Sources, tmp_path: Path) -> None:
    pack = import_pack(source_of(vocab_size=VOCAB), tmp_path / "pack")
    with EmbeddingRows(pack) as rows:
        os.truncate(pack.directory / "embed.safetensors", 8192)
        with pytest.raises(PackError, match=r"embed\.safetensors ends before byte 171008, in the embedding"):
            rows.gather([VOCAB - 1])


def test_a_file_that_is_gone_is_named(source_of: Sources, tmp_path: Path) -> None:
    pack = import_pack(source_of(), tmp_path / "pack")
    pack.embed_range()
    (pack.directory / "embed.safetensors").unlink()
    with pytest.raises(PackError, match=r"embed\.safetensors cannot be opened: No such file"):
        EmbeddingRows(pack)
