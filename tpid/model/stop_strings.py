"""Ending an answer at the first of some strings, while its text comes in pieces of any size.

An answer has hidden text too: its special tokens, which are not shown. A stop string that holds a special token is
looked for in all of the answer, any other one in what is shown.
"""

from collections import deque
from collections.abc import Collection, Sequence

from tpid.errors import RequestError

MAX_STRINGS = 64
MAX_CHARS = 4096  # of one string: held back text stays short


class StopStrings:
    """One for each answer. The first stop string to be complete ends it; of several, the one that began first.

    Text that may be the start of a stop string is held back. Each character takes constant time for each string.
    """

    def __init__(self, strings: Sequence[str], hidden_tokens: Collection[str] = ()) -> None:
        """`hidden_tokens` are the texts that `push_hidden` may bring. Raises RequestError."""
        if len(strings) > MAX_STRINGS:
            raise RequestError(f"{len(strings)} stop strings are more than {MAX_STRINGS}.", field="stop")
        longest = max(map(len, strings), default=0)
        if longest > MAX_CHARS:
            raise RequestError(f"A stop string has {longest} characters, more than {MAX_CHARS}.", field="stop")
        if not all(strings):
            raise RequestError("A stop string is empty.", hint="Leave it out.", field="stop")
        self._matchers = [_Matcher(text, any(token in text for token in hidden_tokens)) for text in strings]
        self._held = ""
        self._n_shown = 0  # characters of shown text so far, those held back included
        self._stopped = False

    @property
    def see_hidden(self) -> bool:
        """Whether hidden text can end the answer."""
        return any(matcher.sees_hidden for matcher in self._matchers)

    def push(self, text: str) -> tuple[str, bool]:
        """Text to emit now, and whether the answer is over; text after that is dropped."""
        return self._push(text, hidden=False)

    def push_hidden(self, text: str) -> tuple[str, bool]:
        """As `push`, for text that is not emitted."""
        return self._push(text, hidden=True)

    def flush(self) -> str:
        """What was held back, when no more text comes."""
        held, self._held = self._held, ""
        return held

    def _push(self, text: str, *, hidden: bool) -> tuple[str, bool]:
        if self._stopped:
            return "", True
        n_emitted = self._n_shown - len(self._held)
        seeing = [matcher for matcher in self._matchers if matcher.sees_hidden or not hidden]
        for at, character in enumerate(text, start=1):
            begun_at = self._n_shown
            self._n_shown += not hidden
            complete = [matcher for matcher in seeing if matcher.push(character, begun_at)]
            if complete:
                self._stopped = True
                held = self._held if hidden else self._held + text[:at]
                self._held = ""
                return held[: min(matcher.start(self._n_shown) for matcher in complete) - n_emitted], True
        if not hidden:
            self._held += text
        kept_from = min((matcher.start(self._n_shown) for matcher in self._matchers), default=self._n_shown)
        emitted, self._held = self._held[: kept_from - n_emitted], self._held[kept_from - n_emitted :]
        return emitted, False


class _Matcher:
    """Knuth-Morris-Pratt: how much of `string` the text seen so far ends with."""

    def __init__(self, string: str, sees_hidden: bool) -> None:
        self.string = string
        self.sees_hidden = sees_hidden
        self._matched = 0
        self._begun_at: deque[int] = deque(maxlen=len(string))  # of the last characters: shown text before each
        self._fallback = [0] * len(string)  # [i]: the longest proper prefix that string[: i + 1] also ends with
        for end in range(1, len(string)):
            self._fallback[end] = self._after(self._fallback[end - 1], string[end])

    def push(self, character: str, begun_at: int) -> bool:
        """Whether `string` is complete; not to be called after that. `begun_at` characters were shown before."""
        self._matched = self._after(self._matched, character)
        self._begun_at.append(begun_at)
        return self._matched == len(self.string)

    def start(self, n_shown: int) -> int:
        """How many characters were shown before what is matched of `string`: all `n_shown` where nothing is."""
        return self._begun_at[-self._matched] if self._matched else n_shown

    def _after(self, matched: int, character: str) -> int:
        while matched and self.string[matched] != character:
            matched = self._fallback[matched - 1]
        return matched + (self.string[matched] == character)
