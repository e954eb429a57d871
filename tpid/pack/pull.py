"""A model that is published elsewhere comes onto this device: what is here already, the space for it, the download."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlsplit

from yarl import URL

from tpid.download.choice import choose, part_names
from tpid.download.faults import Persistence
from tpid.download.hub import Hub
from tpid.download.reference import HubModel, Reference, WebFile
from tpid.download.transfer import OnBytes, Source, Transfer
from tpid.download.web import Web, is_private_way, open_web
from tpid.errors import DiskFullError, ModelError, PackError, PullError, TpidError
from tpid.pack.held import held
from tpid.pack.pulled import fetch_directory
from tpid.pack.staging import FREE_SPACE_HINT, is_full
from tpid.pack.store import name_from_path
from tpid.size import shown_size

PACK_FRACTION = 1.1  # of the published files, at most: what the pack takes while they are still there

Report = Callable[[str, int, int], None]  # stage, done bytes, total bytes


@dataclass(frozen=True, slots=True)
class PullOptions:
    """`endpoint` is the hub's; `token` an account's there. `name`: of the pack, None for the published one."""

    models_dir: Path
    endpoint: str
    token: str | None
    name: str | None
    replace: bool


@dataclass(frozen=True, slots=True)
class Fetched:
    path: Path  # to import
    name: str  # of the pack


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    transfer: Transfer
    size_bytes: int


@contextlib.contextmanager
def fetched(
    reference: Reference, options: PullOptions, report: Report, tell: Callable[[str], None]
) -> Iterator[Fetched]:
    """The model's files, in a directory that is gone afterwards, but kept when the work is interrupted.

    Raises PullError, DiskFullError, and PackError where its name is taken or another pull of it goes on.
    """
    directory = fetch_directory(options.models_dir, str(reference))
    with _held(directory, str(reference)):
        try:
            yield _run(_fetch(reference, options, directory, report, tell))
        except OSError as error:
            raise _unwritable(directory, error) from error
        except ModelError as error:
            if not isinstance(error, PullError):  # of these very files there is no use
                shutil.rmtree(directory, ignore_errors=True)
            raise
        else:
            shutil.rmtree(directory, ignore_errors=True)
        finally:
            with contextlib.suppress(OSError):
                directory.rmdir()  # what is in it is for the next try


def _unwritable(directory: Path, error: OSError) -> TpidError:
    if is_full(error):
        return DiskFullError(
            f"The disk of {directory.parent} became full during the download; what came is kept in {directory.name}.",
            hint=f"{FREE_SPACE_HINT} Then the same command goes on.",
        )
    return PullError(
        f"{directory.parent} cannot take the download: {error.strerror}.",
        hint="Check that disk and its permissions, or keep models elsewhere (models_dir in the configuration).",
    )


async def _fetch(
    reference: Reference, options: PullOptions, directory: Path, report: Report, tell: Callable[[str], None]
) -> Fetched:
    tries = Persistence(tell)
    token = options.token
    if token is not None and not is_private_way(URL(options.endpoint)):
        tell("HF_TOKEN is not sent: the hub's address is plain http, where anybody on the way could read it.")
        token = None
    async with open_web(options.endpoint, token) as web:
        if isinstance(reference, HubModel):
            files, published = await _of_hub(reference, options, web, directory, tries)
        else:
            files, published = await _of_address(reference, web, directory, tries)
        name = options.name or name_from_path(Path(published))
        _check_free_name(options, name)
        total_bytes = sum(file.size_bytes for file in files)
        n_files = "" if len(files) == 1 else f" in {len(files)} files"
        tell(f"{reference} is {shown_size(total_bytes)}{n_files}; the model will be called {name}.")
        missing = [file for file in files if not _is_there(directory / file.name, file.size_bytes)]
        _check_space(directory, missing, total_bytes)
        await _each("fetch", missing, total_bytes, report, lambda file, show: file.transfer.fetch(show))
        await _each("check", missing, total_bytes, report, lambda file, show: file.transfer.check(show))
    first = directory / files[0].name
    return Fetched(first if first.suffix.lower() == ".gguf" else directory, name)


async def _of_hub(
    model: HubModel, options: PullOptions, web: Web, directory: Path, tries: Persistence
) -> tuple[list[_File], str]:
    """The model's files, and the name that it is published under."""
    hub = Hub(web, options.endpoint, tries)
    chosen = choose(await hub.files(model), f"hf.co/{model.repo}", model.path or model.quant)
    files = []
    for file in chosen.files:
        name = PurePosixPath(file.path).name
        where = f"hf.co/{model.repo}/{file.path}"
        source = Source(hub.address(model, file.path), where, file.sha256)
        files.append(_File(name, Transfer(web, source, directory / name, tries), file.size_bytes))
    return files, chosen.name or model.repo.rpartition("/")[2]


async def _of_address(file: WebFile, web: Web, directory: Path, tries: Persistence) -> tuple[list[_File], str]:
    parts = urlsplit(file.url)
    folder, _, last = parts.path.rpartition("/")
    names = part_names(last)
    files = []
    for name in names:
        url = parts._replace(path=f"{folder}/{name}").geturl()
        source = Source(URL(url, encoded=True), url, file.sha256 if name == last else None)
        here = unquote(name).replace("/", "-")
        transfer = Transfer(web, source, directory / here, tries)
        files.append(_File(here, transfer, (await transfer.locate()).size_bytes or 0))
    return files, files[0].name


async def _each(
    stage: str, files: list[_File], total_bytes: int, report: Report, do: Callable[[_File, OnBytes], Awaitable[None]]
) -> None:
    """One file after the other, as one stage; files of before count as done."""
    before = total_bytes - sum(file.size_bytes for file in files)
    for file in files:
        base = before

        def show(done_bytes: int, base: int = base) -> None:
            report(stage, min(base + done_bytes, total_bytes), total_bytes)

        await do(file, show)
        before += file.size_bytes


def _check_free_name(options: PullOptions, name: str) -> None:
    """Raises PackError before the first byte."""
    if os.path.lexists(options.models_dir / name) and not options.replace:
        raise PackError(f"This device has another model {name} already.", hint="Give another --name, or --replace it.")


def _check_space(directory: Path, missing: list[_File], total_bytes: int) -> None:
    """Raises DiskFullError before the first byte."""
    there = sum(path.stat().st_blocks * 512 for path in directory.iterdir())
    needed = max(sum(file.size_bytes for file in missing) - there, 0) + int(total_bytes * PACK_FRACTION)
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise DiskFullError(
            f"The disk of {directory.parent} has {shown_size(free)} free; the download and the model that is made of "
            f"it need {shown_size(needed)} for a while.",
            hint=FREE_SPACE_HINT,
        )


def _is_there(path: Path, size_bytes: int) -> bool:
    return path.is_file() and path.stat().st_size == size_bytes


@contextlib.contextmanager
def _held(directory: Path, reference: str) -> Iterator[None]:
    """`directory` exists, and no other pull works in it."""
    busy = PackError(f"Another pull of {reference} goes on.", hint="Wait until it has ended.")
    with contextlib.ExitStack() as stack:
        try:
            directory.mkdir(parents=True, exist_ok=True)
            stack.enter_context(held(directory, busy))
        except OSError as error:
            raise _unwritable(directory, error) from error
        yield


def _run(work: "Awaitable[Fetched]") -> Fetched:
    """To its end, or to a signal: then what is fetched is saved. Raises KeyboardInterrupt."""

    async def main() -> Fetched:
        task = asyncio.ensure_future(work)
        loop = asyncio.get_running_loop()
        for number in handlers:
            loop.add_signal_handler(number, task.cancel)
        return await task

    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        return asyncio.run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
