"""Random weights in the shape of a published model, as a pack: for measurements, not for answers.

    python benchmarks/make_model.py llama-3-8b --format w4 [--to .bench/models] [--layers 4]
    python benchmarks/make_model.py path/to/config.json --format f16

The pack is whole: a daemon whose models_dir is the directory serves it, a chat can be typed, and the answer is
nonsense of the length asked for. Memory stays at a few hundred MB, whatever the shape; the disk decides how long it
takes.
"""

import argparse
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
from rich.progress import Progress as Bars

from random_model import RandomSource, RandomUnits
from shapes import SHAPES, name_of, spec_of
from tpid.errors import TpidError
from tpid.model.weights import ROUNDED_TO, Format
from tpid.pack.reader import Pack
from tpid.pack.store import check_name
from tpid.pack.verify import Progress
from tpid.pack.writer import import_pack

DEFAULT_DIRECTORY = Path(".bench/models")


def make_model(
    shape: str, format: Format, target: Path, *, layers: int | None = None, verify: bool = False, replace: bool = False
) -> Pack:
    """Raises TpidError."""
    source = RandomSource(spec_of(shape, layers), format)
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Bars(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal) as bars:
        tasks = {stage: bars.add_task(stage, total=None, visible=False) for stage in ("convert", "verify")}

        def show(progress: Progress) -> None:
            task = tasks[progress.stage]
            bars.update(task, completed=progress.done_bytes, total=progress.total_bytes, visible=True)

        return import_pack(
            source,
            target,
            requested=format,
            replace=replace,
            verify=verify,
            encode=RandomUnits(source),
            progress=show,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", help=f"a config.json, or one of {', '.join(SHAPES)}")
    parser.add_argument("--format", type=Format, choices=ROUNDED_TO, default=Format.W4)
    parser.add_argument("--to", type=Path, default=DEFAULT_DIRECTORY, help="directory of packs")
    parser.add_argument("--name", help="of the pack; by default SHAPE-FORMAT")
    parser.add_argument("--layers", type=int, help="no more than these, for a quick check")
    parser.add_argument("--verify", action="store_true", help="read everything back and compare digests")
    parser.add_argument("--replace", action="store_true")
    arguments = parser.parse_args()
    depth = f"-{arguments.layers}l" if arguments.layers else ""
    try:
        name = check_name(arguments.name or f"{name_of(arguments.shape)}{depth}-{arguments.format}")
        pack = make_model(
            arguments.shape,
            arguments.format,
            arguments.to / name,
            layers=arguments.layers,
            verify=arguments.verify,
            replace=arguments.replace,
        )
    except (TpidError, OSError, ValueError) as error:
        print(f"make_model: {error}", *filter(None, [getattr(error, "hint", None)]), sep="\n", file=sys.stderr)
        return 1
    print(f"{pack.directory}  {pack.size_bytes / 1e9:.2f} GB  id {pack.id[:12]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
