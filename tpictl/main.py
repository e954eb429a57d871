"""`tpictl`: all its commands, and the streams that they write to."""

import sys
from io import TextIOWrapper

from tpictl.cli import about, home, keys, loaded, models, service, stored, talking
from tpictl.cli.app import app
from tpictl.outcome import open_standard_streams

for commands in (
    talking.app,
    loaded.app,
    models.app,
    stored.app,
    home.app,
    keys.app,
    service.app,
    about.app,
):  # as --help lists them
    app.add_typer(commands)


def main() -> None:
    open_standard_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that cannot show a character is no error
    app()


if __name__ == "__main__":
    main()
