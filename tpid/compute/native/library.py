"""The shared library of kernels, as ctypes sees it: mirrors native.h. Calls release the GIL."""

import ctypes
import threading
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_int64, c_void_p
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tpid.model.weights import F32, Format
from tpid.pack.geometry import MatrixGeometry

FORMAT_NUMBERS = {format: number for number, format in enumerate(Format)}


class Matrix(Structure):
    _fields_ = (("format", c_int32), ("rows", c_int32), ("columns", c_int32), ("offset", c_int64))


class Block(Structure):
    _fields_ = (
        ("units", c_void_p),
        ("stride", c_int64),
        ("n_units", c_int32),
        ("layer", c_int32),
        ("window", c_int32),
        ("rope", c_int32),
        ("gate", c_int32),
        ("scale", c_float),
        ("softcap", c_float),
        ("matrices", Matrix * 4),
        ("norm", c_void_p),
        ("biases", c_void_p * 3),
        ("q_norm", c_void_p),
        ("k_norm", c_void_p),
    )


class Shape(Structure):
    _fields_ = (
        *((name, c_int32) for name in ("hidden", "head_dim", "heads", "n_layers", "n_slots", "context_tokens")),
        *(
            (name, c_int32)
            for name in ("max_tokens", "attn_units", "ffn_units", "ffn_columns", "int8_cache", "n_ropes")
        ),
        ("norm_eps", c_float),
    )


_SIGNATURES: dict[str, tuple[object, tuple[object, ...]]] = {
    "tpid_kernels_name": (c_char_p, (c_int32,)),
    "tpid_kernels_usable": (c_int32, (c_int32,)),
    "tpid_cores_create": (c_void_p, (c_int32, c_int32, c_int32)),
    "tpid_cores_free": (None, (c_void_p,)),
    "tpid_cores_threads": (c_int32, (c_void_p,)),
    "tpid_rows_work_bytes": (c_int64, (c_void_p, c_int32, c_int32)),
    "tpid_rows": (
        None,
        (
            *(c_void_p, POINTER(Matrix), c_void_p, c_int64, c_int32),
            *(c_void_p, c_float, c_void_p, c_int32, c_void_p, c_void_p),
        ),
    ),
    "tpid_backend_create": (c_void_p, (c_void_p, POINTER(Shape), c_void_p)),
    "tpid_backend_free": (None, (c_void_p,)),
    "tpid_begin": (None, (c_void_p, c_void_p, c_int32, c_void_p, c_void_p)),
    "tpid_attention": (None, (c_void_p, POINTER(Block), c_void_p, c_void_p)),
    "tpid_ffn": (None, (c_void_p, POINTER(Block), c_void_p, c_void_p)),
}


@cache
def load(path: Path | None = None) -> ctypes.CDLL | None:
    """The library at `path`, by default the one that the install built; None if there is none or it cannot load."""
    paths = [path] if path is not None else sorted(Path(__file__).parent.glob("_kernels*.so"))
    for candidate in paths:
        try:
            library = ctypes.CDLL(str(candidate))
        except OSError:  # built for another Python, system or processor
            continue
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
        return library
    return None


def kernel_names(library: ctypes.CDLL) -> list[str]:
    """The instruction sets that this processor has kernels for, best first; `portable` always."""
    names, index = [], 0
    while (name := library.tpid_kernels_name(index)) is not None:
        if library.tpid_kernels_usable(index):
            names.append(name.decode())
        index += 1
    return names


class Cores:
    """The threads that compute, with the kernels of one instruction set. Backend and head share them."""

    def __init__(self, n_threads: int, kernels: str | None = None, *, planes: int = 2) -> None:
        """`kernels`: a name of `kernel_names`, by default the best. Raises OSError if there is no library.

        `planes`: how many int8 an activation is where it meets 4- and 8-bit weights. One is what most engines do; the
        second takes up what rounding to the first has lost, in 128ths of its step, so that at most 1 / 32512 of a
        group's largest is lost.
        """
        library = load()
        if library is None:
            raise OSError("The native kernels were not built: there was no C compiler when tpid was installed.")
        self.library = library
        self.kernels = kernels or kernel_names(library)[0]
        if self.kernels not in kernel_names(library):
            raise ValueError(f"this processor has no kernels {self.kernels!r}, only {kernel_names(library)}")
        if n_threads < 1:
            raise ValueError(f"{n_threads} threads cannot compute")
        if planes not in (1, 2):
            raise ValueError(f"an activation is one int8 or two, not {planes}")
        self.lock = threading.Lock()  # one call at a time
        self._free = library.tpid_cores_free
        index = 0
        while library.tpid_kernels_name(index).decode() != self.kernels:
            index += 1
        self.handle: int | None = library.tpid_cores_create(index, n_threads, planes)
        if self.handle is None:
            raise MemoryError("no memory for the compute threads")

    @property
    def n_threads(self) -> int:
        """Fewer than were asked for if the system gave fewer."""
        return int(self.library.tpid_cores_threads(self.handle))

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None:
            self._free(self.handle)
            self.handle = None

    def rows(
        self,
        matrix: MatrixGeometry,
        units: NDArray[np.uint8],
        n_rows: int,
        x: F32,
        *,
        norm: F32 | None = None,
        norm_eps: float = 0.0,
        work: NDArray[np.uint8] | None = None,
    ) -> F32:
        """The first `n_rows` rows of all `units` [n_units, stride] times `x` [n, columns]: [n, n_rows] fp32.

        `x` is normed first if `norm` [columns] is given. `work` holds `work_bytes` at least.
        """
        if units.ndim != 2 or units.dtype != np.uint8 or not units.flags.c_contiguous:
            raise ValueError("units must be contiguous uint8 [n_units, stride]")
        if matrix.offset_bytes + matrix.size_bytes > units.shape[1] or n_rows > units.shape[0] * matrix.rows:
            raise ValueError(f"units {units.shape} do not hold {n_rows} rows of {matrix}")
        x = np.ascontiguousarray(x, np.float32)
        if x.ndim != 2 or x.shape[1] != matrix.columns:
            raise ValueError(f"x is {x.shape}, but the matrix has {matrix.columns} columns")
        n = len(x)
        if work is None or work.nbytes < self.work_bytes(matrix, n):
            work = np.empty(self.work_bytes(matrix, n), np.uint8)
        out = np.empty((n, n_rows), np.float32)
        with self.lock:
            self.library.tpid_rows(
                self.handle, matrix_of(matrix), units.ctypes.data, units.shape[1], n_rows,
                None if norm is None else norm.ctypes.data, norm_eps, x.ctypes.data, n, work.ctypes.data,
                out.ctypes.data,
            )  # fmt: skip
        return out

    def work_bytes(self, matrix: MatrixGeometry, n_tokens: int) -> int:
        return int(self.library.tpid_rows_work_bytes(self.handle, matrix.columns, n_tokens))


def matrix_of(matrix: MatrixGeometry) -> Matrix:
    return Matrix(FORMAT_NUMBERS[matrix.format], matrix.rows, matrix.columns, matrix.offset_bytes)
