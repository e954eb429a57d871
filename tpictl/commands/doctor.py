"""`tpictl doctor`: one line a finding: what, why it matters, what mends it."""

from typing import Final

import typer
from rich.console import Console
from rich.text import Text

from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.client.home_answers import Diagnosis, Finding
from tpictl.outcome import EXIT_ERROR, print_json
from tpictl.view.terminal import stdout_console

_SIGNS: Final = {"ok": ("ok     ", "green"), "note": ("note   ", "dim"), "warning": ("warning", "yellow")}
_FAULT: Final = ("FAULT  ", "bold red")


def run_doctor(client: Client, *, as_json: bool) -> None:
    """Raises TpidError, and typer.Exit where there is a fault."""
    answer = client.get("/tpid/doctor")
    diagnosis = decode(Diagnosis, answer)
    if as_json:
        print_json(answer)
    else:
        console = stdout_console()
        for finding in diagnosis.findings:
            _show(console, finding)
    if diagnosis.worst == "fault":
        raise typer.Exit(EXIT_ERROR)


def _show(console: Console, finding: Finding) -> None:
    sign, style = _SIGNS.get(finding.level, _FAULT)
    line = Text.assemble((f"{sign} ", style), finding.what)
    if finding.why:
        line.append(f": {finding.why}")
    if finding.do:
        line.append(f" -> {finding.do}", style="bold")
    console.print(line, soft_wrap=True)
