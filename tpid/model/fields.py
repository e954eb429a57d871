"""Numbers and words out of a model's own description, checked one by one."""

from collections.abc import Mapping

from tpid.errors import ModelFileError


class Fields:
    """`values` as `where` publishes them; a field that is null counts as absent. All methods raise ModelFileError."""

    def __init__(self, values: Mapping[str, object], where: str, prefix: str = "") -> None:
        self.where = where
        self._values = values
        self._prefix = prefix

    def has(self, key: str) -> bool:
        return self.raw(key) is not None

    def names(self, key: str) -> bool:
        """Is the field there, be it null?"""
        return self._prefix + key in self._values

    def raw(self, key: str) -> object:
        return self._values.get(self._prefix + key)

    def size(self, key: str, maximum: int, default: int | None = None) -> int:
        """A whole number from 1 to `maximum`."""
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= maximum:
            raise self._refuse(key, value, f"a whole number from 1 to {maximum}")
        return value

    def count(self, key: str, default: int) -> int:
        """A whole number from 0 on."""
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise self._refuse(key, value, "a whole number, not negative")
        return value

    def number(self, key: str, minimum: float, maximum: float, default: float | None = None) -> float:
        value = self._present(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not minimum <= value <= maximum:
            raise self._refuse(key, value, f"a number from {minimum:g} to {maximum:g}")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        value = self._present(key, default)
        if not isinstance(value, bool):
            raise self._refuse(key, value, "true or false")
        return value

    def text(self, key: str, default: str | None = None) -> str:
        value = self._present(key, default)
        if not isinstance(value, str):
            raise self._refuse(key, value, "a string")
        return value

    def _present(self, key: str, default: object) -> object:
        value = self.raw(key)
        if value is None:
            value = default
        if value is None:
            raise ModelFileError(f"{self.where} does not say {self._prefix}{key}.")
        return value

    def _refuse(self, key: str, value: object, wanted: str) -> ModelFileError:
        shown = f"a {type(value).__name__}" if isinstance(value, list | dict) else repr(value)[:60]
        return ModelFileError(f"{self.where} says {self._prefix}{key} = {shown}, which is not {wanted}.")
