"""`tpictl verify --pack`: is every byte of a model what was imported?"""

from contextlib import closing

import typer
from rich.console import Console

from tpictl.client.answers import Fault, Progress, Verified
from tpictl.client.connection import Client
from tpictl.client.decode import decode
from tpictl.outcome import EXIT_ERROR, print_json
from tpictl.view.progress_bars import StageBars
from tpictl.view.terminal import stderr_console
from tpid.size import shown_size

VERIFY = "/tpid/verify"


def run_verify(client: Client, pack: str, *, as_json: bool) -> None:
    """Raises TpidError, and typer.Exit where there is a fault."""
    console = stderr_console()
    faults: list[object] = []
    verified: object = None
    with StageBars(console, keep=False) as bars, closing(client.lines(VERIFY, {"model": pack})) as lines:
        for line in lines:
            if "verified" in line:
                verified = line["verified"]
            elif "fault" in line:
                faults.append(line["fault"])
                if not as_json:
                    _tell(console, decode(Fault, line["fault"]))
            else:
                bars.show(decode(Progress, line))
    if verified is None:
        raise client.ended_early()
    if as_json:
        print_json({"verified": verified, "faults": faults})
    end = decode(Verified, verified)
    if end.n_faults:
        if not as_json:
            counted = "1 fault" if end.n_faults == 1 else f"{end.n_faults} faults"
            console.print(f"{end.name} is damaged: {counted}.", markup=False, soft_wrap=True)
        raise typer.Exit(EXIT_ERROR)
    if not as_json:
        print(f"{end.name} is sound: {shown_size(end.checked_bytes)} are what was imported.")


def _tell(console: Console, fault: Fault) -> None:
    """One line a fault, above the bar."""
    text = f"{fault.message} {fault.hint}" if fault.hint else fault.message
    console.print(f"tpictl: {text}", markup=False, soft_wrap=True, highlight=False)
