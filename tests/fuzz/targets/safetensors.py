"""The header of a safetensors file."""

import io

from tests.fuzz.stretch import stretched
from tpid.errors import ModelError
from tpid.model.tensorfile import read_header


def fuzz(data: bytes) -> None:
    """The first byte says how many bytes the file goes on after its header; the length before it is right, mostly."""
    text, data_bytes = stretched(data[1:]), data[0] if data else 0
    if data_bytes < 250:
        text = len(text).to_bytes(8, "little") + text + bytes(data_bytes)
    try:
        entries = read_header(io.BytesIO(text), "a file")
    except ModelError as error:
        assert len(str(error)) < 2000
        return
    for entry in entries.values():
        assert 8 <= entry.start <= entry.stop <= len(text)
