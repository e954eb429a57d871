"""`tpictl bench`: how fast the cluster answers with a model, measured by answers of given lengths."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console, Group, RenderableType

from tpictl.client.answering import Answer, stream_answer
from tpictl.client.calls import load_model, plan_of
from tpictl.client.connection import Client
from tpictl.commands.bench_prompt import PromptLength, bench_prompt
from tpictl.commands.chat import current_plan, only_model
from tpictl.errors import OTHER_HINT
from tpictl.outcome import print_json
from tpictl.view.plan_table import answer_line, columns_table, left_out_lines, plan_table, plan_title
from tpictl.view.progress_bars import StageBars
from tpictl.view.quantities import format_duration, format_rate
from tpictl.view.terminal import stderr_console, stdout_console
from tpid.errors import RemoteProtocolError

FIRST_SEED = 1001  # far from those of the probes


@dataclass(frozen=True, slots=True)
class BenchOptions:
    model: str | None
    prompt_tokens: int
    answer_tokens: int
    runs: int
    as_json: bool


@dataclass(frozen=True, slots=True)
class Run:
    """One answer, by the daemon's own clock."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt; prefill computes the others
    answer_tokens: int
    ttft_s: float
    prefill_tokens_s: float
    decode_tokens_s: float | None  # None for a single token


@dataclass(frozen=True, slots=True)
class Spread:
    median: float
    lowest: float
    highest: float


def run_bench(client: Client, options: BenchOptions) -> None:
    """Raises TpidError; and KeyboardInterrupt, after the runs up to then were shown."""
    console = stderr_console()
    model = options.model or only_model(client, "bench")
    with StageBars(console, keep=False) as bars:
        plan = load_model(client, model, bars.show)
    runs: list[Run] = []
    try:
        measure(client, model, options, runs, lambda answer: _tell(console, options, len(runs), answer))
    except KeyboardInterrupt:
        if runs:
            _show(model, runs, current_plan(client, plan), as_json=options.as_json)
        raise
    _show(model, runs, current_plan(client, plan), as_json=options.as_json)


def measure(
    client: Client, model: str, options: BenchOptions, runs: list[Run], on_run: Callable[[Answer], None]
) -> None:
    """Fills `runs`; the prompts that find out how long a prompt has to be warm everything up. Raises TpidError."""

    def ask(prompt: str, max_tokens: int) -> Answer:
        body = {
            "model": model,
            "messages": [{"role": "user", "content": prompt}],
            "max_tokens": max_tokens,
            "temperature": 0,
            "ignore_eos": True,
        }
        return stream_answer(client, body, lambda text: None)

    length = PromptLength.probe(lambda prompt: run_of(ask(prompt, 2)).prompt_tokens)
    n_words = length.words_for(options.prompt_tokens)
    for number in range(options.runs):
        answer = ask(bench_prompt(n_words, FIRST_SEED + number), options.answer_tokens)
        runs.append(run_of(answer))
        on_run(answer)


def run_of(answer: Answer) -> Run:
    """Raises RemoteProtocolError where the daemon told no times."""
    usage, timings = answer.usage, answer.timings
    if usage is None or timings is None or timings.ttft_s <= 0:
        raise RemoteProtocolError("The daemon's answer has no timings.", hint=OTHER_HINT)
    cached = usage.prompt_tokens_details.cached_tokens
    return Run(
        usage.prompt_tokens,
        cached,
        usage.completion_tokens,
        timings.ttft_s,
        (usage.prompt_tokens - cached) / timings.ttft_s,
        timings.tokens_s,
    )


def spread_of(values: Sequence[float]) -> Spread:
    return Spread(statistics.median(values), min(values), max(values))


def bench_view(runs: Sequence[Run]) -> RenderableType:
    """Median and range of each figure."""
    table = columns_table()
    for name in ("", "median", "lowest", "highest"):
        table.add_column(name, justify="left" if not name else "right")
    for name, spread in _spreads(runs).items():
        show = format_duration if name == "ttft_s" else format_rate
        table.add_row(_TITLES[name], show(spread.median), show(spread.lowest), show(spread.highest))
    return table


_TITLES = {"ttft_s": "TTFT", "prefill_tokens_s": "prefill", "decode_tokens_s": "decode"}


def _spreads(runs: Sequence[Run]) -> dict[str, Spread]:
    decode = [run.decode_tokens_s for run in runs if run.decode_tokens_s is not None]
    columns = {
        "ttft_s": [run.ttft_s for run in runs],
        "prefill_tokens_s": [run.prefill_tokens_s for run in runs],
        "decode_tokens_s": decode,
    }
    return {name: spread_of(values) for name, values in columns.items() if values}


def _show(model: str, runs: Sequence[Run], plan: object, *, as_json: bool) -> None:
    if as_json:
        figures: dict[str, Any] = {name: asdict(spread) for name, spread in _spreads(runs).items()}
        print_json({"model": model, **figures, "runs": [asdict(run) for run in runs], "plan": plan})
        return
    told = plan_of(plan)
    first = runs[0]
    times = "once" if len(runs) == 1 else f"{len(runs)} times"
    lengths = f"prompt {first.prompt_tokens} tokens, answer {first.answer_tokens} tokens, {times}"
    parts = [plan_title(told), plan_table(told), *left_out_lines(told), "", lengths, bench_view(runs)]
    stdout_console().print(Group(*parts))


def _tell(console: Console, options: BenchOptions, number: int, answer: Answer) -> None:
    if not options.as_json and answer.usage is not None and answer.timings is not None:
        line = f"{number} of {options.runs}: {answer_line(answer.usage, answer.timings)}"
        console.print(line, soft_wrap=True)
