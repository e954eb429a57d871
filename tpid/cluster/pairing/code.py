"""Pairing codes: two words and five digits, like `walnut-canyon-48213`.

256 · 256 · 100,000 codes, 32.6 bits. Three guesses at one of them come true once in two thousand million.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable
from typing import Final, NewType

from tpid.cluster.pairing.words import WORDS
from tpid.errors import PairingError

Code = NewType("Code", str)  # in the one form that both sides prove
Entropy = Callable[[int], bytes]  # so many random bytes, like `os.urandom`

_N_DIGITS: Final = 5
_MAX_TYPED: Final = 200  # characters


def make_code(entropy: Entropy) -> Code:
    first, second = entropy(2)
    digits = int.from_bytes(entropy(16), "big") % 10**_N_DIGITS  # of 128 bits: no number is likelier than another
    return Code(f"{WORDS[first]}-{WORDS[second]}-{digits:0{_N_DIGITS}}")


def parse_code(typed: str) -> Code:
    """The code in what a person typed: case, spaces and what stands between the parts do not matter.

    Raises PairingError that names the part that cannot be right, so that no try is spent on it.
    """
    if len(typed) > _MAX_TYPED:
        raise _no_code("This is longer than a pairing code.")
    parts = re.findall(r"[^\W\d_]+|\d+", typed.casefold())
    words = [part for part in parts if not part.isdecimal()]
    digits = "".join(part for part in parts if part.isdecimal())
    if len(words) != 2 or parts[:2] != words:
        raise _no_code("A pairing code is two words and five digits.")
    for word in words:
        if word not in WORDS:
            near = difflib.get_close_matches(word, WORDS, n=1)
            raise _no_code(f"No pairing code has the word {word!r}." + (f" Is it {near[0]!r}?" if near else ""))
    if len(digits) != _N_DIGITS or not digits.isascii():
        raise _no_code(f"A pairing code has five digits; there are {len(digits)}.")
    return Code(f"{words[0]}-{words[1]}-{digits}")


def _no_code(message: str) -> PairingError:
    return PairingError(
        message, hint="It looks like walnut-canyon-48213, and stands on the screen of the other device."
    )
