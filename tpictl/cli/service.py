"""Commands about tpid as a service of systemd."""

from typing import Annotated

import typer

from tpictl.cli.options import JsonOption
from tpictl.outcome import reporting

app = typer.Typer()

service_app = typer.Typer(
    help="Have the daemon started by systemd, with the machine or with your session.",
    rich_markup_mode=None,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(service_app, name="service")

SystemOption = Annotated[
    bool | None,
    typer.Option(
        "--system/--user", help="Of the whole machine, or of your session. Default: of the machine if root asks."
    ),
]


@service_app.command("install")
def service_install(system: SystemOption = None, json: JsonOption = False) -> None:
    """Write the unit, enable it and start it; tell each step.

    \b
    Examples:
      tpictl service install             for you, while you are logged in
      sudo tpictl service install        for the machine, from its start on
    """
    with reporting(as_json=json):
        from tpictl.commands.service import run_install  # noqa: PLC0415

        run_install(system=system, as_json=json)


@service_app.command("status")
def service_status(system: SystemOption = None, json: JsonOption = False) -> None:
    """Tell whether it is installed and runs. It does not: exit code 3.

    \b
    Example:
      tpictl service status
    """
    with reporting(as_json=json):
        from tpictl.commands.service import run_service_status  # noqa: PLC0415

        run_service_status(system=system, as_json=json)


@service_app.command("uninstall")
def service_uninstall(system: SystemOption = None, json: JsonOption = False) -> None:
    """Stop it and take back what `install` did. Models and the device's identity stay, and where they are is told.

    \b
    Example:
      tpictl service uninstall
    """
    with reporting(as_json=json):
        from tpictl.commands.service import run_uninstall  # noqa: PLC0415

        run_uninstall(system=system, as_json=json)
