"""How much structure a JSON text may have, found while it comes in and before anything is made of it.

A parser makes an object of each item, and an item takes two bytes of text: `[1,1,1,…`. Long strings are cheap, many
items are not. So the marks that stand before an item are counted, outside of strings. Sans-I/O.
"""

import re

MAX_MARKS = 1 << 15  # of a chat with 6500 messages
_MARKS = (b",", b":", b"[", b"{")
# A string, or what there is of one at the end; the group is its quote, or a backslash whose other half is to come.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+("|\\?)', re.DOTALL)


class JsonBounds:
    """Counts the marks of one text, however it is cut. Whether it is JSON is not its matter."""

    def __init__(self, max_marks: int = MAX_MARKS) -> None:
        self._max_marks = max_marks
        self._in_string = False
        self._escaped = False  # the next byte belongs to a backslash
        self._n_strings = 0  # complete ones
        self.n_marks = 0

    def push(self, data: bytes) -> bool:
        """Whether the text is still within its bounds. Takes time that is linear in `data`."""
        if self._escaped and data:
            data, self._escaped = data[1:], False
        if self._in_string:
            data = b'"' + data
        outside, n_strings = _STRING.subn(rb'"\1', data)  # a string becomes `""`, an open one `"` or `"\`
        self._in_string = outside.count(b'"') % 2 == 1
        self._escaped = self._in_string and outside.endswith(b"\\")
        self._n_strings += n_strings - self._in_string
        self.n_marks += sum(outside.count(mark) for mark in _MARKS)
        # Strings that follow each other without a mark are no JSON; they would only take time.
        return max(self.n_marks, self._n_strings - 1) <= self._max_marks
