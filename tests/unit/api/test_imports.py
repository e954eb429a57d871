"""Imports as processes of their own; a small program stands for the import command."""

import asyncio
import os
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpid.api import imports as imports_module
from tpid.api.imports import Imports
from tpid.errors import BusyError

PROGRESS = {"stage": "convert", "done_bytes": 1, "total_bytes": 2}
PACK = {"pack": {"name": "m", "id": "ab", "size_bytes": 2}}
ERROR = {"error": {"code": "model_file", "message": "It is no model.", "hint": None}}

Program = Callable[[str], Imports]


@pytest.fixture
def imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """`imports(source)` runs `source` as the import command; `say` prints one object."""

    def make(source: str) -> Imports:
        program = tmp_path / "python"
        prelude = "import json, os, signal, sys, time\ndef say(item): print(json.dumps(item), flush=True)\n"
        program.write_text(f"#!{sys.executable}\n{prelude}{textwrap.dedent(source)}")
        program.chmod(0o700)
        monkeypatch.setattr(sys, "executable", str(program))
        return Imports()

    return make


async def collect(imports: Imports, name: str = "m", *arguments: str) -> list[dict[str, Any]]:
    return [item async for item in imports.run(name, arguments)]


def test_progress_and_then_the_pack(imports: Program) -> None:
    runs = imports(f"say({PROGRESS}); say({PACK})")
    assert asyncio.run(collect(runs)) == [PROGRESS, PACK]


def test_the_command_gets_its_arguments_and_its_environment(imports: Program) -> None:
    runs = imports("say({'pack': [*sys.argv[1:], os.environ['HF_TOKEN']]})")

    async def main() -> list[dict[str, Any]]:
        return [item async for item in runs.run("m", ("--path=--replace",), {"HF_TOKEN": "secret"})]

    (item,) = asyncio.run(main())
    assert item["pack"] == ["-m", "tpid.pack.import_command", "--path=--replace", "secret"]


@pytest.mark.parametrize("last", [PACK, ERROR])
def test_who_has_read_the_end_may_begin_the_next(imports: Program, last: dict[str, Any]) -> None:
    """The import tells its end some time before its process is gone."""
    runs = imports(f"say({last}); time.sleep(0.05)")

    async def main() -> None:
        first = runs.run("a", ())
        assert await anext(first) == last
        assert await collect(runs, "b") == [last]
        await first.aclose()

    asyncio.run(main())


def test_one_at_a_time(imports: Program) -> None:
    runs = imports(f"say({PROGRESS}); time.sleep(60)")

    async def main() -> None:
        first = runs.run("a", ())
        await anext(first)
        with pytest.raises(BusyError, match="a is being imported"):
            await anext(runs.run("b", ()))
        await first.aclose()
        second = runs.run("b", ())
        await anext(second)
        await second.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "source",
    ["", "sys.exit(3)", "print('no JSON', flush=True); time.sleep(60)", "say([1])", "print('x' * 10**5, flush=True)"],
    ids=["nothing", "exit", "no-json", "no-object", "long-line"],
)
def test_an_import_that_tells_no_end_is_an_error_and_its_process_is_gone(imports: Program, source: str) -> None:
    items = asyncio.run(collect(imports(source)))
    assert [item["error"]["code"] for item in items] == ["import"]
    assert items[0]["error"]["message"].startswith("The import ended unexpectedly (exit code ")


def test_a_closed_import_is_told_to_end(imports: Program, tmp_path: Path) -> None:
    runs = imports(f"""
        def end(*_):
            open({str(tmp_path / "ended")!r}, "w")
            sys.exit(130)
        signal.signal(signal.SIGTERM, end)
        say({PROGRESS})
        time.sleep(60)
    """)

    async def main() -> None:
        run = runs.run("m", ())
        await anext(run)
        await run.aclose()

    asyncio.run(main())
    assert (tmp_path / "ended").exists()


def test_one_that_does_not_listen_is_killed(imports: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports_module, "END_TIMEOUT_S", 0.05)
    runs = imports("signal.signal(signal.SIGTERM, signal.SIG_IGN); say({'pid': os.getpid()}); time.sleep(60)")

    async def main() -> int:
        run = runs.run("m", ())
        pid = int((await anext(run))["pid"])
        await run.aclose()
        return pid

    pid = asyncio.run(main())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
