"""Ending an answer at the first of some strings, while its text comes in pieces of any size."""

from collections.abc import Sequence

from tpid.errors import RequestError

MAX_STRINGS = 64
MAX_CHARS = 4096  # of one string: held back text stays short


class StopStrings:
    """One for each answer. The first stop string to be complete ends it; of several, the one that began first.

    Text that may be the start of a stop string is held back. Each character takes constant time for each string.
    """

    def __init__(self, strings: Sequence[str]) -> None:
        """Raises RequestError."""
        if len(strings) > MAX_STRINGS:
            raise RequestError(f"{len(strings)} stop strings are more than {MAX_STRINGS}.")
        longest = max(map(len, strings), default=0)
        if longest > MAX_CHARS:
            raise RequestError(f"A stop string has {longest} characters, more than {MAX_CHARS}.")
        if not all(strings):
            raise RequestError("A stop string is empty.", hint="Leave it out.")
        self._matchers = [_Matcher(string) for string in strings]
        self._held = ""
        self._stopped = False

    def push(self, text: str) -> tuple[str, bool]:
        """Text to emit now, and whether the answer is over; text after that is dropped."""
        if self._stopped:
            return "", True
        text = self._held + text
        for end in range(len(self._held) + 1, len(text) + 1):
            complete = [len(matcher.string) for matcher in self._matchers if matcher.push(text[end - 1])]
            if complete:
                self._stopped = True
                self._held = ""
                return text[: end - max(complete)], True
        kept = len(text) - max((matcher.matched for matcher in self._matchers), default=0)
        self._held = text[kept:]
        return text[:kept], False

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held


class _Matcher:
    """Knuth-Morris-Pratt: how much of `string` the text seen so far ends with."""

    def __init__(self, string: str) -> None:
        self.string = string
        self.matched = 0
        self._fallback = [0] * len(string)  # [i]: the longest proper prefix that string[: i + 1] also ends with
        for end in range(1, len(string)):
            self._fallback[end] = self._after(self._fallback[end - 1], string[end])

    def push(self, character: str) -> bool:
        """Whether `string` is complete; not to be called after that."""
        self.matched = self._after(self.matched, character)
        return self.matched == len(self.string)

    def _after(self, matched: int, character: str) -> int:
        while matched and self.string[matched] != character:
            matched = self._fallback[matched - 1]
        return matched + (self.string[matched] == character)
