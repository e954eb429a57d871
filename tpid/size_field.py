"""A size as a field of a configuration or a request."""

from typing import Annotated

from pydantic import BeforeValidator, Field

from tpid.size import parse_size


def _parsed(value: object) -> object:
    """Bytes where it is a text; anything else as it is, for pydantic to refuse."""
    return parse_size(value) if isinstance(value, str) else value


# At most 1 PiB: it must fit 64 bits when the other devices are told.
Size = Annotated[int, BeforeValidator(_parsed), Field(gt=0, le=1 << 50)]
