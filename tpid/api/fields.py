"""How fields of a body are read: null is the default, and what cannot be honoured is refused with its reason."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, Field

from tpid.model.sampling import SamplingParams

MAX_STOP_STRINGS = 16  # OpenAI takes 4
MAX_CHOICES = 16
MAX_BIASES = 1024
DEFAULT_TEMPERATURE = 0.7
MAX_TOLD_CHARS = 40  # of a value that a client has made up


def only(*no_ops: object, because: str) -> BeforeValidator:
    """For a field that changes nothing: null and `no_ops` are taken, all else is refused with `because`."""

    def check(value: object) -> object:
        if value is None or any(value == no_op and type(value) is type(no_op) for no_op in no_ops):
            return None
        raise ValueError(f"{shown(value)} cannot be honoured: {because}")

    return BeforeValidator(check)


def _text(value: object) -> object:
    """The text of a message, whose parts stand on lines of their own."""
    if not isinstance(value, list):
        return value
    return "\n".join(_part_text(part) for part in value)


def _part_text(part: object) -> str:
    match part:
        case {"type": "text", "text": str(text)} | {"type": "refusal", "refusal": str(text)}:
            return text
        case {"type": "text" | "refusal"}:
            raise ValueError("a text part has no text")
        case {"type": str(kind)}:
            raise ValueError(f"a part of type {shown(kind)} cannot be read: models here take text only")
    raise ValueError("a part is an object with `type` and `text`")


def _stop_strings(value: object) -> object:
    if value is None:
        return ()
    strings = [value] if isinstance(value, str) else value
    if not isinstance(strings, list) or not all(isinstance(text, str) for text in strings):
        raise ValueError("a string, or a list of them, is expected")
    if len(strings) > MAX_STOP_STRINGS:
        raise ValueError(f"{len(strings)} stop strings are more than {MAX_STOP_STRINGS}")
    return tuple(strings)


def default(value: Any) -> Callable[[object], object]:
    """A validator: null is `value`."""
    return lambda given: value if given is None else given


TextOrParts = Annotated[str, BeforeValidator(_text)]
StopField = Annotated[tuple[str, ...], BeforeValidator(_stop_strings)]
Switch = Annotated[bool, BeforeValidator(default(False))]
OrEmpty = Annotated[str, BeforeValidator(default(""))]
Opaque = Annotated[None, BeforeValidator(lambda _: None)]  # taken whatever it is, and ignored


LogitBias = Annotated[dict[int, float], Field(max_length=MAX_BIASES)]

_SAMPLING = (
    *("top_k", "top_p", "min_p", "repetition_penalty", "frequency_penalty", "presence_penalty"),
    *("logit_bias", "seed"),
)


def sampling_of(body: BaseModel) -> SamplingParams:
    """From those fields that a body has. Raises RequestError where a value is out of range."""
    return sampling_from({name: getattr(body, name, None) for name in ("temperature", *_SAMPLING)})


def sampling_from(values: Mapping[str, Any]) -> SamplingParams:
    """By our names; None was not said, and is the model's to say. Raises RequestError for what is out of range."""
    given = {name: value for name, value in values.items() if value is not None}
    unsaid = frozenset({"temperature", *_SAMPLING} - given.keys())
    return SamplingParams(**{"temperature": DEFAULT_TEMPERATURE, **given}, unsaid=unsaid)


def shown(value: object) -> str:
    """`value` in a few printable characters."""
    text = value if isinstance(value, str) else repr(value)
    short = text if len(text) <= MAX_TOLD_CHARS else f"{text[:MAX_TOLD_CHARS]}…"
    return short if short.isprintable() else repr(short)
