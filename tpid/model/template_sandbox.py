"""What a chat template of unknown origin may do: compute, and not for long.

Jinja's immutable sandbox keeps a template from Python's insides and from changing its data. It does not keep it from
taking all memory or time, so loops and calls are counted, and what multiplies text is measured before it is made.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from typing import Any, NoReturn

from jinja2 import Template, nodes, pass_eval_context
from jinja2.exceptions import SecurityError, TemplateError
from jinja2.ext import Extension, loopcontrols
from jinja2.nodes import EvalContext
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext, markup_join, str_join
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

MAX_STEPS = 500_000  # turns of loops and calls in one rendering
MAX_VALUE_CHARS = 1 << 25  # of one string
MAX_MADE_CHARS = 1 << 28  # of all strings made in one rendering
LIST_ITEM_CHARS = 16  # a list's item counts as so many characters: it takes as much memory
MAX_INTEGER_BITS = 4096
MAX_NUMBER_ARGUMENT = 100_000  # widths and counts: as Jinja limits `range`
MAX_JSON_INDENT = 64

# Fields of format strings with a width or precision that makes a giant of a small value, or that is a value itself.
_WIDE_PERCENT = re.compile(r"%[-+ #]*\d*\.?(\d{6}|\*)")
_WIDE_NAMED = re.compile(r"\)[-+ #]*\d*\.?\d{6}")  # after %(name)
_WIDE_BRACE = re.compile(r"\{[^{}:]*:[^{}]{0,16}(\d{6}|\{)")
_SIZED = {"batch", "center", "expandtabs", "indent", "ljust", "rjust", "slice", "tojson", "wordwrap", "zfill"}


class Budget:
    """What is left of one rendering's allowance."""

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._chars = MAX_MADE_CHARS

    def step(self) -> None:
        self._steps -= 1
        if self._steps < 0:
            raise SecurityError(f"it takes more than {MAX_STEPS} steps")

    def make(self, size: int) -> None:
        """Before a string of `size` characters is made."""
        self._chars -= size
        if size > MAX_VALUE_CHARS or self._chars < 0:
            raise SecurityError(f"it makes a text of {size} characters, which is too much")


_budget: ContextVar[Budget] = ContextVar("template_budget")


@contextmanager
def counting(budget: Budget) -> Iterator[None]:
    """All that templates do in this context is charged to `budget`."""
    token = _budget.set(budget)
    try:
        yield
    finally:
        _budget.reset(token)


class TemplateSandbox(ImmutableSandboxedEnvironment):
    """The environment that transformers gives to chat templates, with the limits above."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self, now: Callable[[], datetime]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_GenerationTag, loopcontrols],
            optimized=False,  # it computes what is constant ahead, and needs the cube of the depth for nested operators
            finalize=_shown,
        )
        filters = self.filters | {"tojson": _tojson}
        self.filters = {name: _guard_filter(name, filter) for name, filter in filters.items()}
        self.filters |= {_TURNS: _Turns, _CONCAT: _concat}
        self.globals |= {
            "raise_exception": _raise_exception,
            "strftime_now": lambda format: now().strftime(_checked(_WIDE_PERCENT, format)),
            "dict": _Dict(),
            "namespace": _Namespace,
        }
        del self.globals["lipsum"]  # as much text as one likes, and random

    def compile_guarded(self, source: str) -> Template:
        """Raises what Jinja and Python's compiler raise."""
        tree = self.parse(source)
        for loop in tree.find_all(nodes.For):
            loop.iter = nodes.Filter(loop.iter, _TURNS, [], [], None, None, lineno=loop.lineno)
        _replace_concats(tree)
        tree.set_environment(self)
        with counting(Budget()):  # constant expressions are computed here
            return self.from_string(tree)

    @staticmethod
    def concat(texts: Iterable[str]) -> str:
        """How a macro's or a block's output is put together."""
        texts = list(texts)
        _budget.get().make(sum(map(len, texts)))
        return "".join(texts)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None

        def measured(*args: Any, **kwargs: Any) -> str:
            _measure_format(_WIDE_BRACE, value.__self__, (*args, *kwargs.values()))
            return wrapped(*args, **kwargs)

        return measured

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        _measure_operation(operator, left, right)
        return super().call_binop(context, operator, left, right)

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        # The names are Jinja's: keyword arguments of templates must not meet them.
        _budget.get().step()
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str | list | tuple | dict):
            _measure_call(__obj.__name__, owner, args, kwargs)
        elif isinstance(__obj, LoopContext) and args:  # a recursive loop's next level
            args = (_Turns(args[0]), *args[1:])
        return super().call(__context, __obj, *args, **kwargs)


class _GenerationTag(Extension):
    """`{% generation %}` marks an answer for training; here its body is just written."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own declaration

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller: Callable[[], str]) -> str:
        return caller()


class _Dict:
    """`dict` without the attributes of Python's type."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(Namespace):
    """Refuses names that begin with an underscore, as transformers does."""

    def __init__(*args: Any, **kwargs: Any) -> None:  # `self` may be a key, as in Jinja's own
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _check_name(name)
        Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _check_name(name)
        super().__setitem__(name, value)


class _Turns:
    """What a loop goes through, each turn counted."""

    def __init__(self, items: Iterable[Any]) -> None:
        self._items = items

    def __iter__(self) -> Iterator[Any]:
        budget = _budget.get()
        for item in self._items:
            budget.step()
            yield item

    def __len__(self) -> int:
        return len(self._items)  # type: ignore[arg-type]  # TypeError where it has none, as without us


_GROWING = (str, list, tuple)
_TURNS, _CONCAT = "tpid turns", "tpid concat"  # filters that no template can name


@pass_eval_context
def _concat(context: EvalContext, items: list[Any]) -> str:
    _budget.get().make(sum(map(_text_size, items)))
    return markup_join(items) if context.autoescape else str_join(items)


def _replace_concats(node: nodes.Node) -> None:
    """`a ~ b` becomes a measured filter."""
    for name, value in node.iter_fields():
        if isinstance(value, nodes.Node):
            _replace_concats(value)
            setattr(node, name, _measured(value))
        elif isinstance(value, list):
            for child in value:
                if isinstance(child, nodes.Node):
                    _replace_concats(child)
            setattr(node, name, [_measured(child) for child in value])


def _measured(node: Any) -> Any:
    if not isinstance(node, nodes.Concat):
        return node
    items = nodes.List(node.nodes, lineno=node.lineno)
    return nodes.Filter(items, _CONCAT, [], [], None, None, lineno=node.lineno)


def _guard_filter(name: str, filter: Callable[..., Any]) -> Callable[..., Any]:
    """Its numbers and the text it makes are measured; marks for Jinja, such as pass_environment, stay."""

    @wraps(filter)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        budget = _budget.get()
        budget.step()
        own = args[1:] if hasattr(filter, "jinja_pass_arg") else args
        if own:
            _measure_call(name, own[0], own[1:], kwargs)
        result = filter(*args, **kwargs)
        if isinstance(result, str | list):
            budget.make(_size(result))
        return result

    return guarded


def _shown(value: Any) -> Any:
    """What a template writes: a value that holds itself many times would become a giant."""
    if not isinstance(value, str):
        _budget.get().make(_text_size(value))
    return value


def _measure_call(name: str, owner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Before a filter or a method of a string or list makes much of little."""
    values = (*args, *kwargs.values())
    numbers = [abs(value) for value in values if type(value) is int] if name in _SIZED else []
    if numbers and max(numbers) > MAX_NUMBER_ARGUMENT:
        raise SecurityError(f"it calls {name} with {str(max(numbers))[:40]}, more than {MAX_NUMBER_ARGUMENT}")
    if name == "tojson":
        _measure_json(owner, values, numbers)
    elif name == "join":
        separator, items = (owner, values[0] if values else ()) if isinstance(owner, str) else (values, owner)
        _measure_join(separator, items)
    elif name == "format" and isinstance(owner, str):
        _measure_format(_WIDE_PERCENT, owner, values)
    elif isinstance(owner, str):
        _budget.get().make(_string_size(name, owner, values, numbers))
    elif name in ("string", "format", "indent", "replace", "upper", "lower", "trim", "escape", "e"):
        _budget.get().make(_text_size(owner))  # filters that turn anything into a string


def _string_size(name: str, owner: str, values: tuple[Any, ...], numbers: list[int]) -> int:
    """At most so many characters does the method or filter `name` make of the string `owner`."""
    texts = [value for value in values if isinstance(value, str)]
    if name == "replace" and len(texts) == 2:
        return len(owner) + owner.count(texts[0]) * len(texts[1])
    if name in ("expandtabs", "indent"):
        per_line = max([8, *numbers, *map(len, texts)])
        return len(owner) + (owner.count("\t") + owner.count("\n") + 1) * per_line
    if name == "translate":
        raise SecurityError("it uses 'translate', which is not allowed")
    return max([len(owner), *numbers])


def _measure_json(value: Any, arguments: tuple[Any, ...], numbers: list[int]) -> None:
    indents = [*numbers, *(len(argument) for argument in arguments if isinstance(argument, str))]
    if indents and max(indents) > MAX_JSON_INDENT:
        raise SecurityError(f"it indents JSON by {max(indents)}, more than {MAX_JSON_INDENT}")
    _budget.get().make(_text_size(value))


def _measure_join(separator: Any, items: Any) -> None:
    """Items that are made lazily were counted when they were made."""
    if isinstance(items, list | tuple | dict | str):
        _budget.get().make(_text_size(separator) * len(items) + _text_size(items))


def _measure_operation(operator: str, left: Any, right: Any) -> None:
    budget = _budget.get()
    budget.step()
    if operator == "%" and isinstance(left, str):
        _measure_format(_WIDE_PERCENT, left, (right,))
    elif operator == "+" and isinstance(left, _GROWING) and isinstance(right, _GROWING):
        budget.make(_size(left) + _size(right))
    elif operator == "*":
        for factor, times in ((left, right), (right, left)):
            if isinstance(factor, _GROWING) and isinstance(times, int):
                budget.make(_size(factor) * max(0, times))
    if operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
        bits = left.bit_length() * max(0, right) if operator == "**" else left.bit_length() + right.bit_length()
        if bits > MAX_INTEGER_BITS:
            raise SecurityError(f"it computes a number of {bits} bits, more than {MAX_INTEGER_BITS}")


def _size(value: str | list[Any] | tuple[Any, ...]) -> int:
    return len(value) if isinstance(value, str) else len(value) * LIST_ITEM_CHARS


def _text_size(value: Any) -> int:
    """Of the text that shows `value`, roughly. Each value in it is a step, so the measuring is bounded too."""
    _budget.get().step()
    if isinstance(value, str):
        return len(value)
    if isinstance(value, list | tuple):
        return sum(map(_text_size, value)) + LIST_ITEM_CHARS
    if isinstance(value, dict):
        return sum(_text_size(key) + _text_size(item) for key, item in value.items()) + LIST_ITEM_CHARS
    return LIST_ITEM_CHARS


def _measure_format(wide: re.Pattern[str], text: str, values: tuple[Any, ...]) -> None:
    """Each field may show each value."""
    n_fields = max(1, text.count("%" if wide is _WIDE_PERCENT else "{"))
    _budget.get().make(len(_checked(wide, text)) + sum(map(_text_size, values)) * n_fields)


def _checked(wide: re.Pattern[str], text: str) -> str:
    if wide.search(text) or (wide is _WIDE_PERCENT and "%(" in text and _WIDE_NAMED.search(text)):
        raise SecurityError("it formats with a width that is not allowed")
    return text


def _check_name(name: Any) -> None:
    if isinstance(name, str) and name.startswith("_"):
        raise SecurityError(f"it stores {name[:40]!r} in a namespace; names there may not begin with an underscore")


def _raise_exception(message: str) -> NoReturn:
    raise TemplateError(message)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own escapes HTML; models were trained on plain JSON."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)
