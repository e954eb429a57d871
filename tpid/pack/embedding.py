"""Embedding rows straight from the pack: nobody holds the table."""

import os
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import numpy as np

from tpid.errors import PackError
from tpid.model.weights import F32
from tpid.pack.direct import READ_HINT
from tpid.pack.geometry import TILE_ROWS
from tpid.pack.reader import Pack
from tpid.pack.tiles import U8, unpack_rows

# What is read between two times that the page cache is told to forget the rows: those of a conversation stay warm.
_CACHED_BYTES = 4 << 20
_ROWS_AT_ONCE = 16  # what they lie in fits the caches


class EmbeddingRows:
    """Reads the band of 8 rows that holds a token's row; the file stays open."""

    def __init__(self, pack: Pack) -> None:
        """Raises PackError."""
        self._geometry = pack.manifest.embed_geometry
        self._matrix = self._geometry.matrix("rows")
        self._range = pack.embed_range()
        self._vocab_size, self._hidden_size = pack.spec.vocab_size, pack.spec.hidden_size
        self._scale = np.float32(pack.spec.embedding_scale)
        try:
            self._fd = os.open(self._range.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise PackError(f"{self._range.path} cannot be opened: {error.strerror}.", hint=READ_HINT) from error
        os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_RANDOM)  # what lies beside a row is not read with it
        self._cached_bytes = 0

    def gather(self, ids: Sequence[int]) -> F32:
        """What a pass begins with: rows of these tokens, scaled as the model asks, [n, hidden] fp32.

        Raises PackError for an id without a row, or a damaged file.
        """
        out = np.empty((len(ids), self._hidden_size), np.float32)
        places = [self._place(id) for id in ids]
        if len(places) > 1:
            for at in places:  # the disk may fetch them all at once
                os.posix_fadvise(self._fd, at, self._matrix.band_bytes, os.POSIX_FADV_WILLNEED)
        for start in range(0, len(ids), _ROWS_AT_ONCE):
            part = slice(start, start + _ROWS_AT_ONCE)
            out[part] = self._rows(ids[part], places[part])
        if self._cached_bytes > _CACHED_BYTES:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)
            self._cached_bytes = 0
        if self._scale != 1:
            out *= self._scale
        return out

    def close(self) -> None:
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _place(self, id: int) -> int:
        """Where the band that holds this token's row begins in the file."""
        if not 0 <= id < self._vocab_size:
            raise PackError(
                f"{self._range.path} holds {self._vocab_size} tokens, {id} is none of them.",
                hint="Import the model again.",
            )
        unit, row = divmod(id, self._matrix.rows)
        return self._range.offset + unit * self._geometry.stride_bytes + row // TILE_ROWS * self._matrix.band_bytes

    def _rows(self, ids: Sequence[int], places: Sequence[int]) -> F32:
        bands = np.empty((len(ids), self._matrix.band_bytes), np.uint8)
        for band, at in zip(bands, places, strict=True):
            self._read(band, at)
        lanes = np.array(ids, np.intp) % TILE_ROWS
        return unpack_rows(bands, lanes, self._hidden_size, self._matrix.format).dequantize()[:, : self._hidden_size]

    def _read(self, out: U8, at: int) -> None:
        path = self._range.path
        try:
            n = os.preadv(self._fd, [out], at)
        except OSError as error:
            reason = f"{path} cannot be read at byte {at} (embedding): {error.strerror}."
            raise PackError(reason, hint=READ_HINT) from error
        if n < out.size:
            raise PackError(f"{path} ends before byte {at + out.size}, in the embedding.", hint=READ_HINT)
        self._cached_bytes += out.size
