"""How long to wait before a device is dialled again."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """Doubles from `first_s` to `most_s`; half of it is chance, so that devices do not dial in step."""

    first_s: float = 0.25
    most_s: float = 4.0  # a try costs next to nothing, and a device that returns shall not be waited for

    def delay_s(self, failures: int, chance: float) -> float:
        """Before the next attempt after `failures` (0, 1, …) in a row; `chance` in [0, 1)."""
        doublings = min(failures, 32)  # beyond any useful `most_s` / `first_s`
        return min(self.most_s, self.first_s * 2.0**doublings) * (0.5 + 0.5 * chance)
