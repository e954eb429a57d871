"""Requests to the sources of models: who gets the token, which redirects are followed, and where a file lies."""

import json
import re
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any

import aiohttp
from yarl import URL

from tpid import __version__
from tpid.download.faults import PassingFaultError, refusal
from tpid.errors import PullError

CONNECT_TIMEOUT_S = 15.0
STALL_TIMEOUT_S = 20.0  # without a byte
MAX_REDIRECTS = 8
MAX_JSON_BYTES = 16 << 20
MAX_FILE_BYTES = 1 << 43

_SHA256 = re.compile(r"[0-9a-f]{64}")
_CONTENT_RANGE = re.compile(r"bytes (?:(\d{1,15})-(\d{1,15})|\*)/(\d{1,15})")


@dataclass(frozen=True, slots=True)
class Located:
    """A file at the end of its redirects. `size_bytes` is None where its server does not tell."""

    url: URL
    size_bytes: int | None
    etag: str | None  # a strong one
    sha256: str | None
    takes_ranges: bool


class Web:
    """One session; `token` is for `endpoint` alone."""

    def __init__(self, session: aiohttp.ClientSession, endpoint: str, token: str | None) -> None:
        self._session = session
        self._endpoint = URL(endpoint)
        self._token = token

    @property
    def has_token(self) -> bool:
        return self._token is not None

    async def json(self, url: URL, where: str) -> tuple[Any, URL | None]:
        """An answer and the address of its next page. Raises PullError or PassingFaultError."""
        async with self.following(url, where, {}) as (response, _):
            data = await response.content.read(MAX_JSON_BYTES + 1)
            while len(data) <= MAX_JSON_BYTES and (more := await response.content.read(MAX_JSON_BYTES)):
                data += more
            link = response.links.get("next")
            following = link.get("url") if link is not None else None
        try:
            if len(data) > MAX_JSON_BYTES:
                raise ValueError("too long")
            return json.loads(data), URL(str(following)) if following is not None else None
        except (ValueError, RecursionError):
            raise PullError(
                f"{where} answered with what is no list of files.", hint="Is HF_ENDPOINT the address of a hub?"
            ) from None

    async def locate(self, url: URL, where: str) -> Located:
        """Asks for the first byte: some stores answer HEAD otherwise than GET."""
        async with self.following(url, where, {"Range": "bytes=0-0"}) as (response, linked_sha256):
            etag = response.headers.get("ETag")
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            plain = response.headers.get("Content-Encoding", "identity") == "identity"
            whole = response.content_length if response.status == 200 and plain else None
            size = int(match[3]) if match else whole
            if size is not None and size > MAX_FILE_BYTES:
                raise PullError(f"{where} claims {size} bytes, more than any model has.", hint="Check its address.")
            strong = etag if etag is not None and etag.startswith('"') else None
            return Located(response.url, size, strong, linked_sha256, response.status == 206 and match is not None)

    @asynccontextmanager
    async def following(
        self, url: URL, where: str, headers: Mapping[str, str]
    ) -> AsyncIterator[tuple[aiohttp.ClientResponse, str | None]]:
        """The answer behind all redirects, and the digest that one of them told. The body is still to be read.

        Raises PullError, or PassingFaultError for what another try may mend.
        """
        sha256 = None
        with _faults_of(where):
            for _ in range(MAX_REDIRECTS + 1):
                async with self._session.get(
                    url, headers={**headers, **self._authorization(url)}, allow_redirects=False
                ) as response:
                    sha256 = sha256 or _linked_sha256(response.headers)
                    if response.status not in (301, 302, 303, 307, 308):
                        # 416: of an empty file there is no first byte.
                        if response.status not in (200, 206, 416):
                            raise refusal(response.status, response.headers, where, has_token=self.has_token)
                        yield response, sha256
                        return
                    url = _next(url, response.headers.get("Location"), where)
            raise PullError(f"{where} leads from one address to the next without an end.", hint="Check its address.")

    def _authorization(self, url: URL) -> dict[str, str]:
        """Never to where a redirect leads, never readable on the way."""
        if self._token is None or url.origin() != self._endpoint.origin() or not is_private_way(url):
            return {}
        return {"Authorization": f"Bearer {self._token}"}


@asynccontextmanager
async def open_web(endpoint: str, token: str | None) -> AsyncIterator[Web]:
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=STALL_TIMEOUT_S)
    headers = {"User-Agent": f"tpid/{__version__}", "Accept-Encoding": "identity"}
    async with aiohttp.ClientSession(timeout=timeout, headers=headers, trust_env=True) as session:
        yield Web(session, endpoint, token)


def is_private_way(url: URL) -> bool:
    """Nobody else reads what is sent: TLS, or this very machine."""
    if url.scheme == "https" or url.host == "localhost":
        return True
    try:
        return ip_address(url.host or "").is_loopback
    except ValueError:
        return False


@contextmanager
def _faults_of(where: str) -> Iterator[None]:
    """Turns faults of the network into PassingFaultError, or into PullError where no further try helps."""
    try:
        yield
    except (aiohttp.ClientConnectorCertificateError, ssl.SSLCertVerificationError) as error:
        raise PullError(
            f"The certificate for {where} cannot be trusted: {error}.",
            hint="Check this machine's clock and its certificates, and what stands between it and the network.",
        ) from error
    except aiohttp.InvalidURL as error:
        raise PullError(f"{where} has no address that can be asked: {error}.", hint="Check its address.") from error
    except aiohttp.ClientConnectorDNSError as error:
        raise PassingFaultError(f"The address of {where} cannot be looked up") from error
    except TimeoutError as error:
        raise PassingFaultError(f"Nothing has come from {where} for {STALL_TIMEOUT_S:g} s") from error
    except aiohttp.ClientConnectorError as error:
        reason = error.os_error.strerror or str(error.os_error)
        raise PassingFaultError(f"{where} cannot be reached: {reason}") from error
    except (aiohttp.ClientError, ConnectionError) as error:
        raise PassingFaultError(f"The connection for {where} was cut") from error


def _next(url: URL, location: str | None, where: str) -> URL:
    try:
        # As it stands: to quote a signed address anew would break its signature.
        following = url.join(URL(location or "", encoded=(location or "").isascii() and " " not in (location or "")))
    except ValueError:
        following = url
    downgraded = url.scheme == "https" and following.scheme != "https"
    if not location or following.scheme not in ("http", "https") or downgraded:
        raise PullError(
            f"{where} leads to an address that is not followed: {(location or 'none')[:200]}.",
            hint="Check its address, and what stands between this machine and the network.",
        )
    return following


def _linked_sha256(headers: Mapping[str, str]) -> str | None:
    """The hub tells the digest of a large file on the way to it."""
    tag = headers.get("X-Linked-Etag", "").strip('"').lower()
    return tag if _SHA256.fullmatch(tag) else None
