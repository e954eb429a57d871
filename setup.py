"""The native kernels: C beside the package, optional. All else is in pyproject.toml."""

from pathlib import Path

from setuptools import Extension, setup

_SOURCES = "tpid/compute/native"

setup(
    ext_modules=[
        # Plain C without Python's headers, loaded with ctypes. Each file of kernels names its own instruction set, so
        # no -m flags: one build serves all processors of an architecture. -g0, because Python's own -g would take a
        # third of the time to compile.
        Extension(
            "tpid.compute.native._kernels",
            sorted(str(path) for path in Path(_SOURCES).glob("*.c")),
            depends=sorted(str(path) for path in Path(_SOURCES).glob("*.h")),
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi", "-pthread"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,  # without a compiler the install still works; the torch backend computes then
        )
    ]
)
