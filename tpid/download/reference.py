"""What people call a model that is somewhere else: a repository of the hub, or the address of a file."""

import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from tpid.errors import RequestError

HUB = "https://huggingface.co"
MAX_REFERENCE_CHARS = 2048

_HUB_HOSTS = frozenset({"hf.co", "huggingface.co", "www.huggingface.co"})
_HUB_PREFIX = re.compile(r"(?:https?://)?(?:hf\.co|(?:www\.)?huggingface\.co)/", re.IGNORECASE)
_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}"
_REPOSITORY = re.compile(rf"(?P<repo>{_PART}/{_PART})(?::(?P<quant>[A-Za-z0-9][A-Za-z0-9._/-]{{0,199}}))?")
_FILE_PAGE = re.compile(rf"/(?P<repo>{_PART}/{_PART})/(?:blob|resolve)/(?P<revision>[^/]+)/(?P<path>.+\.gguf)", re.I)
_SHA256 = re.compile(r"sha256=([0-9a-f]{64})")

_HINT = "Give hf.co/OWNER/REPOSITORY, with :QUANT or without, or the https address of a .gguf file."


@dataclass(frozen=True, slots=True)
class HubModel:
    """A model in a repository of the hub: by quantization, by file, or whatever suits best."""

    repo: str  # OWNER/NAME
    quant: str | None = None  # or the name of a file
    revision: str = "main"
    path: str | None = None  # of a GGUF file in it

    def __str__(self) -> str:
        at = "" if self.revision == "main" else f"@{self.revision}"
        what = self.path or self.quant
        return f"hf.co/{self.repo}{at}" + (f":{what}" if what else "")


@dataclass(frozen=True, slots=True)
class WebFile:
    """A GGUF file at an address, or the first part of one."""

    url: str  # without a fragment
    sha256: str | None = None  # of the file, where whoever gave the address knows it

    def __str__(self) -> str:
        return self.url


Reference = HubModel | WebFile


def looks_remote(text: str) -> bool:
    """Names something elsewhere, rather than an entry of the catalogue."""
    return "/" in text


def parse_reference(text: str) -> Reference:
    """Raises RequestError, which says what can be given."""
    if len(text) > MAX_REFERENCE_CHARS:
        raise RequestError(f"The name of the model has more than {MAX_REFERENCE_CHARS} characters.", hint=_HINT)
    bare = _HUB_PREFIX.sub("", text, count=1).rstrip("/")
    match = _REPOSITORY.fullmatch(bare)
    if match is not None:
        return HubModel(match["repo"], match["quant"])
    return _address("https://" + text if _HUB_PREFIX.match(text) and "://" not in text else text)


def _address(text: str) -> Reference:
    shown = text[:200]
    try:
        parts = urlsplit(text)
        host = parts.hostname
        _ = parts.port  # a port that is none raises only here
    except ValueError:
        raise RequestError(f"{shown!r} is not an address.", hint=_HINT) from None
    if parts.scheme not in ("http", "https") or not host or parts.username is not None:
        raise RequestError(f"{shown!r} is not the name of a model that can be fetched.", hint=_HINT)
    if not parts.path.lower().endswith(".gguf"):
        raise RequestError(f"{shown!r} is not the address of a .gguf file.", hint=_HINT)
    page = _FILE_PAGE.fullmatch(parts.path)
    if host.lower() in _HUB_HOSTS and page is not None:
        return HubModel(page["repo"], revision=unquote(page["revision"]), path=unquote(page["path"]))
    sha256 = _SHA256.fullmatch(parts.fragment)
    return WebFile(parts._replace(fragment="").geturl(), sha256[1] if sha256 else None)
