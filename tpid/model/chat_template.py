"""Messages to the text of a prompt: the model's own Jinja template, rendered as transformers renders it.

Templates come with models of unknown origin: `tpid.model.template_sandbox` says what they cannot do.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from types import MappingProxyType

from jinja2 import Template, TemplateError

from tpid.errors import ChatTemplateError
from tpid.model.template_sandbox import Budget, TemplateSandbox, counting

MAX_TEMPLATE_CHARS = 1 << 20  # published ones stay below 30 000
MAX_OUTPUT_CHARS = 1 << 25

_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")  # the first is what templates read


class ChatTemplate:
    """Safe to share by threads."""

    def __init__(
        self,
        source: str,
        bos_token: str | None,
        eos_token: str | None,
        *,
        other_tokens: Mapping[str, str] = MappingProxyType({}),
        now: Callable[[], datetime] = datetime.now,
    ) -> None:
        """The template knows the tokens by their names. `now` is the clock of `strftime_now`.

        Raises ChatTemplateError where `source` is not a sound template, and MemoryError.
        """
        if len(source) > MAX_TEMPLATE_CHARS:
            raise ChatTemplateError(f"The chat template has {len(source)} characters, more than {MAX_TEMPLATE_CHARS}.")
        self._template = _compile(source, now)
        tokens = {**other_tokens, "bos_token": bos_token, "eos_token": eos_token}
        self._tokens = {name: token for name, token in tokens.items() if token is not None}

    def render(
        self,
        messages: Sequence[Mapping[str, object]],
        /,
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, object]] | None = None,
        **variables: object,
    ) -> str:
        """To be encoded without special tokens: the template has written them.

        `messages`, `tools` and `variables` are made of JSON's types. Raises ChatTemplateError, with the template's own
        words where it refuses the messages, and MemoryError.
        """
        try:
            given: dict[str, object] = {
                **self._tokens,
                "documents": None,
                **{name: _plain(value) for name, value in variables.items()},
                "messages": [_message(message) for message in messages],
                "tools": _plain(tools),
                "add_generation_prompt": add_generation_prompt,
            }
            with counting(Budget()):
                return _join(self._template.generate(given))
        except (ChatTemplateError, MemoryError):
            raise
        except TemplateError as error:
            raise ChatTemplateError(
                f"The chat template refuses the messages: {_one_line(error)}.",
                hint="Change the messages: some models take no system message, or want user and assistant in turn.",
            ) from error
        except Exception as error:  # a template computes with what a request holds: anything may come of it
            raise ChatTemplateError(
                f"The chat template failed with {type(error).__name__}: {_one_line(error)}.",
                hint="Change the messages, or take the model from elsewhere: its template does not bear them.",
            ) from error


def _compile(source: str, now: Callable[[], datetime]) -> Template:
    try:
        return TemplateSandbox(now).compile_guarded(source)
    except MemoryError:
        raise
    except Exception as error:  # Jinja's own errors, and those of Python's compiler on what Jinja made of it
        raise ChatTemplateError(f"The chat template cannot be compiled: {_one_line(error)}.") from error


def _join(pieces: Iterable[str]) -> str:
    kept, n_chars = [], 0
    for piece in pieces:
        n_chars += len(piece)
        if n_chars > MAX_OUTPUT_CHARS:
            raise ChatTemplateError(
                f"The chat template writes more than {MAX_OUTPUT_CHARS} characters.", hint="Send less text."
            )
        kept.append(piece)
    return "".join(kept)


def _message(message: Mapping[str, object]) -> dict[str, object]:
    """As transformers hands it to a template: null counts as absent, reasoning goes by each name templates look for."""
    plain = {str(name): _plain(value) for name, value in message.items() if value is not None}
    reasoning = next((plain[name] for name in _REASONING_FIELDS if name in plain), None)
    if reasoning is None:
        return plain
    return {"thinking": reasoning, **plain, "reasoning_content": reasoning}


def _plain(value: object) -> object:
    """A copy of nothing but JSON's types, without methods that a sandbox does not know."""
    if isinstance(value, str):
        return str.__str__(value)
    if value is None or type(value) in (bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [_plain(item) for item in value]
    raise TypeError(f"a chat template takes JSON's types, not {type(value).__name__}")


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
