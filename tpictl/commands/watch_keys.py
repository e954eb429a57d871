"""What keys do to the dashboard. Pure: what is to be done comes out."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tpictl.view.watch_rows import SORTS, Row


@dataclass(frozen=True, slots=True)
class Quit:
    pass


@dataclass(frozen=True, slots=True)
class Remove:
    name: str


@dataclass(slots=True)
class WatchKeys:
    sort: str = SORTS[0]
    paused: bool = False
    bottom: str = ""
    _choices: dict[str, Row] = field(default_factory=dict)  # by the digit that chooses; empty where none is asked for
    _chosen: Row | None = None

    @property
    def numbers(self) -> dict[str, str]:
        """By which digit a device, by its id, is chosen now."""
        return {row.id: digit for digit, row in self._choices.items()}

    def press(self, key: str, rows: Sequence[Row]) -> Quit | Remove | None:
        """`rows` as they are on the screen."""
        self.bottom = ""
        if self._chosen is not None:
            return self._confirm(key)
        if self._choices:
            self._choose(key)
            return None
        match key:
            case "q":
                return Quit()
            case "p":
                self.paused = not self.paused
            case "s":
                self.sort = SORTS[(SORTS.index(self.sort) + 1) % len(SORTS)]
            case "x":
                self._ask(rows)
        return None

    def _ask(self, rows: Sequence[Row]) -> None:
        numbered = {str(number): row for number, row in enumerate(rows, start=1) if number < 10 and not row.is_me}
        self._choices = numbered
        which = f"Remove which? {' '.join(numbered)}; any other key: none"
        self.bottom = which if numbered else "No other device is here."

    def _choose(self, key: str) -> None:
        self._chosen = self._choices.get(key)
        self._choices = {}
        if self._chosen is not None:
            self.bottom = f"Put {self._chosen.name} out of this home, until it is invited again? y/n"

    def _confirm(self, key: str) -> Remove | None:
        row, self._chosen = self._chosen, None
        return Remove(row.name) if row is not None and key == "y" else None
