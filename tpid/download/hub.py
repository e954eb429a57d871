"""The hub's own API: which files a repository has, and where each lies."""

import re
from typing import Annotated
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from yarl import URL

from tpid.download.choice import Listed
from tpid.download.faults import PassingFaultError, Persistence
from tpid.download.reference import HubModel
from tpid.download.web import MAX_FILE_BYTES, Web
from tpid.errors import PullError

MAX_PAGES = 20  # of some thousand files each
MAX_PATH_CHARS = 1024


class _Large(BaseModel):
    model_config = ConfigDict(extra="ignore")
    oid: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Entry(BaseModel):
    model_config = ConfigDict(extra="ignore")
    type: str
    path: Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS)]
    size: Annotated[int, Field(ge=0, le=MAX_FILE_BYTES)] = 0
    lfs: _Large | None = None


_ENTRIES = TypeAdapter(list[_Entry])
_UNSAFE = re.compile(r"(^|/)\.{0,2}(/|$)|[\x00-\x1f\\]")


def listed(data: object, where: str) -> list[Listed]:
    """The files of one page of a listing; what leads out of a directory is passed over. Raises PullError."""
    try:
        entries = _ENTRIES.validate_python(data)
    except ValidationError:
        raise PullError(
            f"{where} answered with what is no list of files.", hint="Is HF_ENDPOINT the address of a hub?"
        ) from None
    return [
        Listed(entry.path, entry.size, entry.lfs.oid if entry.lfs else None)
        for entry in entries
        if entry.type == "file" and not _UNSAFE.search(entry.path)
    ]


class Hub:
    def __init__(self, web: Web, endpoint: str, persistence: Persistence) -> None:
        self._web = web
        self._endpoint = endpoint.rstrip("/")
        self._persistence = persistence

    async def files(self, model: HubModel) -> list[Listed]:
        """All files of the repository. Raises PullError."""
        where = f"hf.co/{model.repo}"
        url: URL | None = self._url("api/models", model.repo, "tree", model.revision).with_query(recursive="true")
        found: list[Listed] = []
        for _ in range(MAX_PAGES):
            if url is None:
                return found
            data, following = await self._page(url, where)
            found += listed(data, where)
            # A page leads on within the hub only: the token goes along.
            url = following if following is not None and following.origin() == url.origin() else None
        return found

    def address(self, model: HubModel, path: str) -> URL:
        return self._url(model.repo, "resolve", model.revision, path)

    async def _page(self, url: URL, where: str) -> tuple[object, URL | None]:
        while True:
            try:
                return await self._web.json(url, where)
            except PassingFaultError as fault:
                await self._persistence.wait(fault)

    def _url(self, *parts: str) -> URL:
        return URL("/".join([self._endpoint, *(quote(part, safe="/") for part in parts)]), encoded=True)
