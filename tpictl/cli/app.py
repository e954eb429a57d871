"""The one application that all commands belong to, and what they take without a command."""

from typing import Annotated

import typer

from tpictl.outcome import reporting
from tpid import __version__

app = typer.Typer(
    name="tpictl",
    help="Talk to the large language models that your devices serve together.",
    epilog="Begin with: tpictl pull smollm2-135m, then tpictl chat",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        with reporting(as_json=False):
            print(f"tpictl {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and leave.")
    ] = False,
) -> None:
    pass
