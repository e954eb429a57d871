"""`tpid`: reads the configuration and runs the daemon."""

import argparse
import logging
import sys
from pathlib import Path

import uvloop

from tpid import __version__
from tpid.daemon.config import Config, default_config, load_config
from tpid.errors import ConfigError, TpidError
from tpid.log_limit import RepetitionFilter

EXIT_CONFIG = 78  # of sysexits.h: a restart mends nothing, and the unit of systemd tries none


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="tpid", description="Serves large language models together with the other devices of this home."
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="a TOML file; default: ~/.config/tpid/tpid.toml")
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="all that tpid may take, such as 2G or 800M; in place of memory_budget in the configuration",
    )
    parser.add_argument("--version", action="version", version=f"tpid {__version__}")
    arguments = parser.parse_args()
    try:
        overrides = {} if arguments.memory is None else {"memory_budget": arguments.memory}

        def read() -> Config:
            return load_config(arguments.config or default_config(), overrides)

        config = read()
        _set_up_logging(config)
        # Imported here, so that --help and a faulty configuration do not wait for torch.
        from tpid.daemon.service import run  # noqa: PLC0415

        uvloop.run(run(config, read))
    except* TpidError as group:
        error = _first(group)
        print(f"tpid: {error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigError) else 1)


def _set_up_logging(config: Config) -> None:
    name = config.name.replace("%", "%%")
    logging.basicConfig(
        level=config.log_level.upper(),
        stream=sys.stderr,
        format=f"%(asctime)s %(levelname)s device={name} %(name)s %(message)s",
    )
    if config.log_level != "debug":
        for handler in logging.getLogger().handlers:
            handler.addFilter(RepetitionFilter())


def _first(group: BaseExceptionGroup[TpidError]) -> BaseException:
    """The first leaf of nested groups."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


if __name__ == "__main__":
    main()
