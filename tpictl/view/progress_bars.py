"""Progress on stderr: a bar for each stage on a terminal, a line for each stage elsewhere."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from tpictl.client.answers import Progress
from tpictl.view.terminal import can_be_repainted
from tpid.size import shown_size


class StageBars:
    """Use as `with StageBars(console) as bars`; stages come one after the other."""

    def __init__(self, console: Console, *, keep: bool = True) -> None:
        """`keep`: the bars stay on the screen at the end; without it nothing is left, nor said off a terminal."""
        self._console = console
        self._keep = keep
        self._moves = can_be_repainted(console)
        self._stage: Progress | None = None
        self._task: TaskID | None = None
        self._bars = Bars(
            TextColumn("{task.description:<8}"),
            BarColumn(bar_width=32),
            TextColumn("{task.fields[amount]}"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            transient=not keep,
            disable=not self._moves,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def show(self, progress: Progress) -> None:
        # A stage that tells nothing before its end has a bar that moves without a scale.
        total = progress.total_bytes if progress.done_bytes else None
        amount = _amount(progress)
        if self._stage is None or self._stage.stage != progress.stage:
            self._finish()
            self._task = self._bars.add_task(progress.stage, total=total, amount=amount)
            if self._keep and not self._moves:
                self._console.print(f"{progress.stage}: {shown_size(progress.total_bytes)}", markup=False)
        elif self._task is not None:
            self._bars.update(self._task, total=total, completed=progress.done_bytes, amount=amount)
        self._stage = progress

    def _finish(self) -> None:
        """The stage before is done when another one begins."""
        if self._task is not None and self._stage is not None:
            total = self._stage.total_bytes
            self._bars.update(self._task, total=total, completed=total, amount=shown_size(total))


def _amount(progress: Progress) -> str:
    if progress.done_bytes in (0, progress.total_bytes):
        return shown_size(progress.total_bytes)
    return f"{shown_size(progress.done_bytes)} of {shown_size(progress.total_bytes)}"
