"""Lines of text that tokenizers like to get wrong, the same at each call."""

import random
from collections.abc import Sequence

_PIECES = (
    *("The quick brown fox", "jumps over", "the lazy dog.", "internationalization", "HELLO WORLD", "camelCaseName"),
    *(
        "I'm",
        "you're",
        "DON'T",
        "we'Ve",
        "they'LL",
        "it'S",
        "o'clock",
        "'s",
        "'tis",
        "rock 'n' roll",
        "I’ve",
        "D'Artagnan",
    ),
    *(
        "0",
        "7",
        "42",
        "123",
        "1234",
        "1234567890",
        "3.14159",
        "1,000,000",
        "v1.2.3",
        "٣٤٥",
        "१२३",
        "Ⅷ",
        "½",
        "x²",
        "①②③",
    ),
    *(
        "für Straße",
        "naïve café",
        "cafe\u0301",
        "A\u030a",
        "Ελληνικά",
        "Привет, мир!",
        "שלום",
        "مرحبا بالعالم",
        "हिन्दी में",
    ),
    *(
        "中文测试文本",
        "日本語テキスト",
        "カタカナ",
        "한국어",
        "ภาษาไทย",
        "Tiếng Việt",
        "ქართული",
        "ǅ",
        "ß",
        "ﬁ",
        "İstanbul",
        "Å",
        "ſ",
    ),
    *("😀", "👩‍👩‍👧‍👦", "🏳️‍🌈", "👍🏽", "🇩🇪🇫🇷", "❤️", "𝔘𝔫𝔦", "𐍈", "🫠🫡"),
    *(
        "def f(x):",
        "    return x ** 2",
        "for (int i = 0; i < n; ++i) {",
        "}",
        "a->b",
        "!=",
        "===",
        "//",
        "/* c */",
        "#include",
    ),
    *(
        "<html>",
        "</div>",
        "{{ x }}",
        '"key": "value",',
        "C:\\path\\n",
        "https://example.org/a?b=c&d=%20",
        "a_b__c",
        "-----",
        "...",
    ),
    *(
        " ",
        "  ",
        "   ",
        "\t",
        "\t\t",
        " \t ",
        "\n",
        "\n\n",
        " \n",
        "\r\n",
        "\r",
        "\u00a0",
        "\u2003",
        "\u3000",
        "\u200b",
        "\ufeff",
    ),
    *(
        "\x00",
        "\x01",
        "\x07",
        "\x1b[0m",
        "\x7f",
        "\u0085",
        "\u2028",
        "\ufffd",
        "\ue000",
        "\u0300",
        "▁",
        "▁▁x",
        "Ġ",
        "<0x41>",
    ),
    *("!", "?!", ",", ";", "(", ")", "[x]", "«", "»", "—", "€", "£5", "$", "`", "~", "^", "|", "…", "¿qué?", "“q”"),
)
_JOINTS = ("", "", " ", " ", " ", "  ", "\n")


def mixed_lines(n_lines: int, special: Sequence[str] = (), seed: int = 0) -> list[str]:
    """`special` tokens stand in about a quarter of them."""
    source = random.Random(seed)
    return [_line(source, special) for _ in range(n_lines)]


def _line(source: random.Random, special: Sequence[str]) -> str:
    parts = []
    for _ in range(source.randint(1, 12)):
        kind = source.random()
        if kind < 0.03 and special:
            parts.append(source.choice(special))
        elif kind < 0.1:
            parts.append(chr(source.choice((source.randrange(0x20, 0x500), source.randrange(0x2000, 0xD800)))))
        else:
            parts.append(source.choice(_PIECES))
        parts.append(source.choice(_JOINTS))
    return "".join(parts)
