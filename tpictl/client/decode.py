"""JSON into frozen dataclasses. Unknown keys are passed over, so that an older tpictl reads a newer daemon.

field                     takes
------------------------  -------------------------------------------
str, int, bool            that and nothing else
float                     any finite number
X | None                  null, or X
tuple[X, ...]             a list of X
dict[str, X]              an object with values X
a dataclass               an object; keys without a value take defaults
Annotated[X, function]    X, then what the function makes of it
"""

import math
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import NoneType
from typing import Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

from tpictl.errors import OTHER_HINT
from tpid.errors import RemoteProtocolError

T = TypeVar("T")


def decode(kind: type[T], data: object) -> T:
    """Raises RemoteProtocolError, which names the field."""
    decoded: T = _value(kind, data, "")
    return decoded


def _value(kind: Any, data: object, where: str) -> Any:
    if is_dataclass(kind):
        return _object(kind, data, where)
    if get_origin(kind) is not None:
        return _composed(get_origin(kind), get_args(kind), data, where)
    if kind is float and isinstance(data, int | float) and not isinstance(data, bool):
        return _finite(data, where)
    if type(data) is kind:
        return data
    raise _fault(where)


def _composed(origin: Any, arguments: tuple[Any, ...], data: object, where: str) -> Any:
    if origin is Annotated:
        return arguments[1](_value(arguments[0], data, where))
    if NoneType in arguments:
        return None if data is None else _value(arguments[0], data, where)
    if origin is tuple and isinstance(data, list):
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(data))
    if origin is dict and isinstance(data, dict):
        return {key: _value(arguments[1], item, f"{where}.{key}") for key, item in data.items()}
    raise _fault(where)


def _object(kind: Any, data: object, where: str) -> Any:
    if not isinstance(data, dict):
        raise _fault(where)
    values = {}
    hints = _hints(kind)
    for field in fields(kind):
        name = f"{where}.{field.name}" if where else field.name
        if field.name in data:
            values[field.name] = _value(hints[field.name], data[field.name], name)
        elif field.default is MISSING and field.default_factory is MISSING:
            raise _fault(name)
    return kind(**values)


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, include_extras=True)


def _finite(data: int | float, where: str) -> float:
    try:
        number = float(data)
    except OverflowError:
        raise _fault(where) from None
    if not math.isfinite(number):
        raise _fault(where)
    return number


def _fault(where: str) -> RemoteProtocolError:
    what = f"no sound {where}" if where else "another form than expected"
    return RemoteProtocolError(f"The daemon's answer has {what}.", hint=OTHER_HINT)
