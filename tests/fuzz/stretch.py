"""Small inputs that stand for large ones: a parser that is given a hundred bytes is never slow.

Where the byte 0xFE stands, the two bytes behind it say how much of what came before is repeated, and how often:
`n` as 2 to the power of `n % 20`, of the last `size % 64` bytes. All else is itself.
"""

MAX_BYTES = 2 << 20
_MARK = 0xFE


def stretched(data: bytes) -> bytes:
    out = bytearray()
    at = 0
    while at < len(data):
        mark = data.find(_MARK, at)
        if mark < 0 or mark + 2 >= len(data):
            return bytes(out + data[at:])
        out += data[at:mark]
        size, times = data[mark + 1] % 64, 1 << data[mark + 2] % 20
        if size and size * times <= MAX_BYTES - len(out):
            out += out[-size:] * times
        at = mark + 3
    return bytes(out)
