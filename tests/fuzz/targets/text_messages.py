"""Replies of a text process: whatever they hold, they are taken or refused."""

import contextlib

from tpid.engine.constraint import mask_of
from tpid.engine.text_messages import decode_ids, decode_table
from tpid.errors import TpidError


def fuzz(data: bytes) -> None:
    for decode in (decode_ids, decode_table, mask_of):
        with contextlib.suppress(TpidError):
            decode(data)  # type: ignore[operator]
