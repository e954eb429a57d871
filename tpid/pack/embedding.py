"""Embedding rows straight from the pack: nobody holds the table."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from tpid.errors import PackError
from tpid.model.weights import F32
from tpid.pack.geometry import TILE_ROWS
from tpid.pack.reader import Pack
from tpid.pack.tiles import unpack_tiles

# What is read between two times that the page cache is told to forget the rows: those of a conversation stay warm.
_CACHED_BYTES = 4 << 20


class EmbeddingRows:
    """Reads the band of 8 rows that holds a token's row; the file stays open."""

    def __init__(self, pack: Pack) -> None:
        """Raises PackError."""
        self._geometry = pack.manifest.embed_geometry
        self._matrix = self._geometry.matrix("rows")
        self._range = pack.embed_range()
        self._vocab_size, self._hidden_size = pack.spec.vocab_size, pack.spec.hidden_size
        try:
            self._fd = os.open(self._range.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PackError(f"{self._range.path} cannot be opened: {error.strerror}.") from error
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)  # what lies beside a row is not read with it
        self._cached_bytes = 0

    def gather(self, ids: Sequence[int]) -> F32:
        """Rows of these tokens, [n, hidden] fp32. Raises PackError for an id without a row, or a damaged file."""
        out = np.empty((len(ids), self._hidden_size), np.float32)
        known: dict[int, int] = {}  # where in `out` a token is already: to keep the rows would keep their bands
        for index, id in enumerate(ids):
            out[index] = out[known[id]] if id in known else self._row(id)
            known.setdefault(id, index)
        if self._cached_bytes > _CACHED_BYTES:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._cached_bytes = 0
        return out

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _row(self, id: int) -> F32:
        if not 0 <= id < self._vocab_size:
            raise PackError(f"{self._range.path} holds {self._vocab_size} tokens, {id} is none of them.")
        unit, row = divmod(id, self._matrix.rows)
        band_bytes = self._matrix.band_bytes
        at = self._range.offset + unit * self._geometry.stride_bytes + row // TILE_ROWS * band_bytes
        try:
            data = os.pread(self._fd, band_bytes, at)
        except OSError as error:
            raise PackError(f"{self._range.path} cannot be read: {error.strerror}.") from error
        if len(data) < band_bytes:
            raise PackError(f"{self._range.path} ends before the embedding of token {id}.")
        self._cached_bytes += band_bytes
        band = np.frombuffer(data, np.uint8)
        rows = unpack_tiles(band, TILE_ROWS, self._hidden_size, self._matrix.format)
        at_row = row % TILE_ROWS
        found: F32 = rows.rows(slice(at_row, at_row + 1)).dequantize()[0, : self._hidden_size]
        return found
