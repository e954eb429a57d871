"""What a line typed in a chat asks for. Pure."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

COMMANDS: Mapping[str, str] = {
    "/help": "/help                  this list",
    "/new": "/new                   forget the chat so far",
    "/system": "/system [TEXT]         set the system message; without TEXT, remove it",
    "/set": "/set [NAME VALUE]      change how answers are sampled, for example `/set temperature 0.2`\n"
    "                       or `/set seed default`; without NAME, show all settings",
    "/stats": "/stats                 the plan, and the numbers of the last answer",
    "/exit": "/exit                  leave; so does Ctrl-D",
}
HELP = "\n".join(
    [
        *COMMANDS.values(),
        "",
        "Enter sends. Alt-Enter, or a backslash at the end of the line, begins a new line.",
        "Ctrl-C stops an answer. A prompt that begins with a slash is typed with two.",
    ]
)


@dataclass(frozen=True, slots=True)
class Say:
    prompt: str


@dataclass(frozen=True, slots=True)
class Help:
    pass


@dataclass(frozen=True, slots=True)
class New:
    pass


@dataclass(frozen=True, slots=True)
class System:
    text: str | None  # None: no system message any more


@dataclass(frozen=True, slots=True)
class Set:
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class ShowSettings:
    pass


@dataclass(frozen=True, slots=True)
class ShowStats:
    pass


@dataclass(frozen=True, slots=True)
class Exit:
    pass


@dataclass(frozen=True, slots=True)
class Misunderstood:
    reason: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """An empty line."""


Action = Say | Help | New | System | Set | ShowSettings | ShowStats | Exit | Misunderstood | Nothing

_PLAIN: Mapping[str, Action] = {"/help": Help(), "/new": New(), "/stats": ShowStats(), "/exit": Exit()}


def understand(line: str) -> Action:
    text = line.strip()
    if not text:
        return Nothing()
    if not text.startswith("/") or text.startswith("//"):
        return Say(text.removeprefix("/"))
    return _command(*text.split(maxsplit=1))


def _command(command: str, rest: str = "") -> Action:
    if command in _PLAIN:
        return _PLAIN[command] if not rest else Misunderstood(f"{command} stands alone.")
    if command == "/system":
        return System(rest or None)
    if command == "/set":
        return _set(rest)
    near = difflib.get_close_matches(command, COMMANDS, n=1, cutoff=0.5)
    return Misunderstood(f"There is no {command}. " + (f"Did you mean {near[0]}?" if near else "Try /help."))


def _set(rest: str) -> Action:
    if not rest:
        return ShowSettings()
    name, _, value = rest.partition(" ")
    if not value.strip():
        return Misunderstood(f"{name} needs a value: /set {name} VALUE, or /set {name} default.")
    return Set(name, value.strip())
