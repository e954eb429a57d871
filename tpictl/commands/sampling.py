"""How answers are sampled, as far as the owner has said; the daemon has the defaults and checks the ranges."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from tpid.errors import RequestError


@dataclass(frozen=True, slots=True)
class Sampling:
    """None and an empty tuple: the daemon's default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None
    seed: int | None = None
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()

    def as_body(self) -> dict[str, object]:
        """The fields of a chat request."""
        return {name: value for name, value in self.chosen().items() if value not in (None, ())}

    def with_chosen(self, other: "Sampling") -> "Sampling":
        """This, with all that `other` says."""
        said: dict[str, Any] = {name: value for name, value in other.chosen().items() if value not in (None, ())}
        return replace(self, **said)

    def chosen(self) -> dict[str, object]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


_NUMBERS: Mapping[str, type[int] | type[float]] = {
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "min_p": float,
    "repetition_penalty": float,
    "seed": int,
    "max_tokens": int,
}
SETTINGS = (*_NUMBERS, "stop")


def change(sampling: Sampling, name: str, value: str) -> Sampling:
    """`sampling` with `name` set from its text; `default` resets it. Raises RequestError."""
    name = name.replace("-", "_")
    if name not in SETTINGS:
        near = difflib.get_close_matches(name, SETTINGS, n=1)
        hint = f"Did you mean {near[0]}?" if near else f"There are {', '.join(SETTINGS)}."
        raise RequestError(f"There is no setting {name}.", hint=hint)
    new: Any  # of the type that the field has
    if value == "default":
        new = getattr(Sampling(), name)
    elif name == "stop":
        new = (value,)
    else:
        new = _number(name, value)
    return replace(sampling, **{name: new})


def check_finite(sampling: Sampling) -> Sampling:
    """`sampling` itself. Raises RequestError: JSON has no infinity, and sampling no use for it."""
    for name, value in sampling.chosen().items():
        if isinstance(value, float) and not math.isfinite(value):
            raise RequestError(f"{name} is {value}, which is no finite number.", hint="Leave it out, or give a number.")
    return sampling


def _number(name: str, text: str) -> int | float:
    kind = _NUMBERS[name]
    try:
        number = kind(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        what = "a whole number" if kind is int else "a number"
        raise RequestError(f"{name} needs {what}, not {text!r}.", hint=f"For example: /set {name} {_EXAMPLES[name]}")
    return number


_EXAMPLES: Mapping[str, str] = {
    "temperature": "0.2",
    "top_k": "40",
    "top_p": "0.9",
    "min_p": "0.05",
    "repetition_penalty": "1.1",
    "seed": "7",
    "max_tokens": "256",
}
