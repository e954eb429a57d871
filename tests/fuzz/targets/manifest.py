"""model.json of a pack."""

from pathlib import Path
from tempfile import TemporaryDirectory

from tests.fuzz.stretch import stretched
from tpid.errors import PackError
from tpid.pack.manifest import MANIFEST_NAME, load_manifest

_DIRECTORY = TemporaryDirectory(prefix="fuzz-manifest-")
_PATH = Path(_DIRECTORY.name)


def fuzz(data: bytes) -> None:
    (_PATH / MANIFEST_NAME).write_bytes(stretched(data))
    try:
        manifest, _ = load_manifest(_PATH)
    except PackError as error:
        assert len(str(error)) < 10_000
        return
    for block in manifest.blocks():
        assert manifest.geometry(block).size_bytes > 0
    assert manifest.head_geometry.size_bytes > 0
