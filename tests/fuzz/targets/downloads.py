"""What people and hubs say of models elsewhere: names, files, times to wait; and how a model is sampled from."""

import json
from pathlib import PurePosixPath

from tpid.download.choice import choose
from tpid.download.faults import PassingFaultError, refusal
from tpid.download.hub import listed
from tpid.download.reference import parse_reference
from tpid.errors import PullError, RequestError
from tpid.model.sampling import SamplingParams
from tpid.model.sampling_defaults import load


def fuzz(data: bytes) -> None:
    kind, rest = data[:1], data[1:]
    if kind == b"r":
        _reference(rest.decode(errors="replace"))
    elif kind == b"l":
        _listing(rest)
    elif kind == b"s":
        SamplingParams(**load(rest).as_json())
    elif kind == b"w":
        error = refusal(429, {"Retry-After": rest.decode("latin-1")}, "x", has_token=False)
        assert isinstance(error, PassingFaultError)
        assert error.pause_s is None or error.pause_s >= 0


def _reference(text: str) -> None:
    try:
        reference = parse_reference(text)
    except RequestError:
        return
    str(reference)


def _listing(data: bytes) -> None:
    wish, _, page = data.partition(b"\n")
    try:
        value = json.loads(page)
    except (ValueError, RecursionError):
        return
    try:
        chosen = choose(listed(value, "x"), "x", wish.decode(errors="replace") or None)
    except PullError:
        return
    for file in chosen.files:
        assert PurePosixPath(file.path).name not in ("", ".", "..")
