"""What a line typed in a chat asks for. Pure."""

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass

COMMANDS: Mapping[str, str] = {
    "/?": "this list; /help is the same",
    "/model [NAME]": "go on with another model; without NAME, list them",
    "/retry": "answer the last prompt once more",
    "/edit": "change the last prompt, and answer that instead",
    "/clear": "begin a new chat; the one so far stays kept",
    "/save NAME": "keep this chat under a name",
    "/load [NAME]": "go on with a chat that is kept; without NAME, list them",
    "/system [TEXT]": "set the system message; without TEXT, remove it",
    "/set [NAME VALUE]": "change how answers are sampled: `/set temperature 0.2`, `/set seed default`; "
    "without NAME, show all settings",
    "/stats": "the plan, and the numbers of the last answer",
    "/bye": "leave; so does Ctrl-D",
}
HINTS = (
    "Enter sends. Alt-Enter, or a backslash at the end of the line, begins a new line.",
    "@path sends a text file along; @@ is a plain @. A prompt that begins with a slash is typed with two.",
    "Ctrl-C stops an answer.",
)
_SAME: Mapping[str, str] = {"/help": "/?", "/new": "/clear", "/exit": "/bye", "/quit": "/bye"}


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
class Retry:
    pass


@dataclass(frozen=True, slots=True)
class Edit:
    pass


@dataclass(frozen=True, slots=True)
class Save:
    name: str


@dataclass(frozen=True, slots=True)
class Load:
    name: str | None  # None: which ones there are


@dataclass(frozen=True, slots=True)
class Model:
    name: str | None


@dataclass(frozen=True, slots=True)
class Exit:
    pass


@dataclass(frozen=True, slots=True)
class Misunderstood:
    reason: str


@dataclass(frozen=True, slots=True)
class Nothing:
    """An empty line."""


Action = (
    Say
    | Help
    | New
    | System
    | Set
    | ShowSettings
    | ShowStats
    | Retry
    | Edit
    | Save
    | Load
    | Model
    | Exit
    | Misunderstood
    | Nothing
)

_PLAIN: Mapping[str, Action] = {
    "/?": Help(),
    "/clear": New(),
    "/stats": ShowStats(),
    "/retry": Retry(),
    "/edit": Edit(),
    "/bye": Exit(),
}
NAMES = sorted({usage.split()[0] for usage in COMMANDS} | _SAME.keys())


def understand(line: str) -> Action:
    text = line.strip()
    if not text:
        return Nothing()
    if not text.startswith("/") or text.startswith("//"):
        return Say(text.removeprefix("/"))
    return _command(*text.split(maxsplit=1))


def _command(typed: str, rest: str = "") -> Action:
    command = _SAME.get(typed, typed)
    if command in _PLAIN:
        return _PLAIN[command] if not rest else Misunderstood(f"{typed} stands alone.")
    if command in _WITH_MORE:
        return _WITH_MORE[command](rest)
    near = difflib.get_close_matches(typed, [name for name in NAMES if len(name) > 2], n=1, cutoff=0.5)
    return Misunderstood(f"There is no {typed}. " + (f"Did you mean {near[0]}?" if near else "Try /?"))


def _set(rest: str) -> Action:
    if not rest:
        return ShowSettings()
    name, _, value = rest.partition(" ")
    if not value.strip():
        return Misunderstood(f"{name} needs a value: /set {name} VALUE, or /set {name} default.")
    return Set(name, value.strip())


_WITH_MORE: Mapping[str, Callable[[str], Action]] = {
    "/system": lambda text: System(text or None),
    "/set": _set,
    "/model": lambda name: Model(name or None),
    "/load": lambda name: Load(name or None),
    "/save": lambda name: Save(name) if name else Misunderstood("/save needs a name: /save NAME."),
}
