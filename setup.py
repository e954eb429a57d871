"""The native kernels: C beside the package, optional. All else is in pyproject.toml."""

import re
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext

_SOURCES = "tpid/compute/native"
_KERNELS = "tpid.compute.native._kernels"
_GLIBC = re.compile(rb"GLIBC_2\.(\d+)")


class BuildKernels(build_ext):
    """In a wheel they have a name without a Python in it: they know none, so one wheel serves them all."""

    def get_ext_filename(self, fullname: str) -> str:
        if self.inplace or self.editable_mode:
            return super().get_ext_filename(fullname)
        return fullname.replace(".", "/") + ".so"


class KernelWheel(bdist_wheel):
    """For any Python 3, and for each Linux whose glibc has the symbols that the kernels ask for."""

    def get_tag(self) -> tuple[str, str, str]:
        _, _, platform = super().get_tag()
        system, _, machine = platform.partition("_")
        built = Path(self.bdist_dir or ".") / f"{_KERNELS.replace('.', '/')}.so"
        versions = [int(minor) for minor in _GLIBC.findall(built.read_bytes())] if built.is_file() else []
        if system == "linux" and versions:
            platform = f"manylinux_2_{max(versions)}_{machine}"
        return "py3", "none", platform


setup(
    cmdclass={"build_ext": BuildKernels, "bdist_wheel": KernelWheel},
    ext_modules=[
        # Plain C without Python's headers, loaded with ctypes. Each file of kernels names its own instruction set, so
        # no -m flags: one build serves all processors of an architecture. -g0, because Python's own -g would take a
        # third of the time to compile.
        Extension(
            _KERNELS,
            sorted(str(path) for path in Path(_SOURCES).glob("*.c")),
            depends=sorted(str(path) for path in Path(_SOURCES).glob("*.h")),
            extra_compile_args=["-std=gnu11", "-O3", "-g0", "-fvisibility=hidden", "-Wno-psabi", "-pthread"],
            extra_link_args=["-pthread"],
            libraries=["m"],
            optional=True,  # without a compiler the install still works; the torch backend computes then
        )
    ],
)
