"""What a model thinks before it answers, told apart from its answer while the text comes in pieces of any size."""

from dataclasses import dataclass
from enum import Enum, auto

from tpid.model.tool_calls import settled_chars

THINK_BEGIN, THINK_END = "<think>", "</think>"


@dataclass(frozen=True, slots=True)
class Spoken:
    thinking: str = ""
    text: str = ""


class _Part(Enum):
    BEGIN = auto()  # nothing but blanks so far, or some of the opening tag
    THINKING = auto()
    ANSWER = auto()


class Thoughts:
    """One for each answer: `<think>` … `</think>` at its begin; blanks around the tags belong to neither."""

    def __init__(self) -> None:
        self._part = _Part.BEGIN
        self._held = ""
        self._after_tag = False  # blanks that come now are left out

    def push(self, text: str) -> Spoken:
        self._hold(text)
        if self._part is _Part.BEGIN:
            begin = self._held.lstrip()
            if begin.startswith(THINK_BEGIN):
                self._enter(_Part.THINKING, begin[len(THINK_BEGIN) :])
            elif not THINK_BEGIN.startswith(begin):
                self._part = _Part.ANSWER
        thinking = self._thought() if self._part is _Part.THINKING else ""
        return Spoken(thinking, self._taken(len(self._held)) if self._part is _Part.ANSWER else "")

    def finish(self) -> Spoken:
        """The rest, when no more text comes."""
        rest = self._taken(len(self._held))
        return Spoken(thinking=rest) if self._part is _Part.THINKING else Spoken(text=rest)

    def _enter(self, part: _Part, text: str) -> None:
        """`text` follows the tag before `part`."""
        self._part, self._held, self._after_tag = part, "", True
        self._hold(text)

    def _hold(self, text: str) -> None:
        if self._after_tag:
            text = text.lstrip()
            self._after_tag = not text
        self._held += text

    def _thought(self) -> str:
        before, ends, after = self._held.partition(THINK_END)
        if ends:
            self._enter(_Part.ANSWER, after)
            return before.rstrip()
        return self._taken(settled_chars(self._held, THINK_END))

    def _taken(self, n_chars: int) -> str:
        taken, self._held = self._held[:n_chars], self._held[n_chars:]
        return taken
