"""Faults done to real daemons at chosen moments of real requests, and what became of each request."""

import contextlib
import os
import random
import signal
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

PROMPTS = ("What is the capital of France?", "Name three colours.", "How many days has a week?")
LONG = "The quick brown fox jumps over the lazy dog. " * 40 + "What does the fox do?"
N_TOKENS = 24
MOST_END_S = 20.0  # of a daemon that may still be starting, beside others


class Fault(StrEnum):
    KILL = "kill -9 of a worker"
    TERMINATE = "SIGTERM of a worker"
    HICCUP = "a worker stands still for 1 s"
    STALL = "a worker stands still for 4 s"
    SLEEP = "the coordinator stands still for 4 s"
    DISK = "the disk of a worker breaks"
    LEAVE = "the client goes away"


class Moment(StrEnum):
    LOAD = "load"
    PREFILL = "prefill"
    DECODE = "decode"


@dataclass
class Outcome:
    fault: Fault
    moment: Moment
    text: str
    error: str | None
    ended_s: float  # from the fault, or its end where the coordinator itself stood still, to the end of the request
    pause_s: float  # the longest between two pieces of text


@dataclass
class Answer:
    """A streamed answer, read by a thread of its own."""

    daemon: Any
    prompt: str
    texts: list[str] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    error: str | None = None
    ended_at: float = 0.0

    def __post_init__(self) -> None:
        self._more = threading.Condition()
        self._stream: Any = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def wait_for_texts(self, n: int, timeout_s: float = 60.0) -> None:
        """Until so many pieces are there, or the answer has ended."""
        with self._more:
            self._more.wait_for(lambda: len(self.texts) >= n or self.ended_at > 0, timeout_s)

    def join(self, timeout_s: float = 60.0) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"no end of the answer to {self.prompt[:40]!r}: {self.texts}"

    def leave(self) -> None:
        """As a client that is closed in the middle."""
        with contextlib.suppress(Exception):
            self._stream.close()

    @property
    def pause_s(self) -> float:
        return max((later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)), default=0.0)

    def _read(self) -> None:
        try:
            self._stream = self.daemon.stream(self.prompt, max_tokens=N_TOKENS)
            for event in self._stream:
                if "error" in event:
                    self.error = event["error"]["message"]
                    break
                text = event["choices"][0]["delta"].get("content")
                if text:
                    with self._more:
                        self.texts.append(text)
                        self.times.append(time.monotonic())
                        self._more.notify_all()
        except AssertionError as error:  # an error before the first text is an HTTP status
            self.error = str(error)
        except Exception as error:
            self.error = f"{type(error).__name__}: {error}"
        with self._more:
            self.ended_at = time.monotonic()
            self._more.notify_all()


@dataclass
class Chaos:
    """A home of a user and two helpers, and what is done to it. `launch(name)` starts a helper again."""

    user: Any
    helpers: list[Any]
    launch: Callable[[str], Any]
    expected: dict[str, str]
    broken_disk: Path  # exists while the disk of the first helper is broken
    chance: random.Random
    outcomes: list[Outcome] = field(default_factory=list)
    stopping: list[Any] = field(default_factory=list)  # helpers that were told to end

    def strike(self, fault: Fault, moment: Moment) -> Outcome:
        """One request with one fault; afterwards the home is whole again."""
        prompt = LONG if moment is Moment.PREFILL else self.chance.choice(PROMPTS)
        if moment is Moment.LOAD:
            self._forget_plan()
        answer = Answer(self.user, prompt)
        if moment is Moment.DECODE:
            answer.wait_for_texts(self.chance.randrange(1, 12))
        else:
            time.sleep(self.chance.uniform(0.0, 0.25))
        struck_at = self._do(fault, answer)
        answer.join()
        outcome = Outcome(
            fault, moment, "".join(answer.texts), answer.error, answer.ended_at - struck_at, answer.pause_s
        )
        self._check(outcome, prompt)
        self._repair()
        self.outcomes.append(outcome)
        return outcome

    def next_answer_is_right(self) -> None:
        prompt = self.chance.choice(PROMPTS)
        answer = self.user.chat(prompt, max_tokens=N_TOKENS)
        assert answer["choices"][0]["message"]["content"] == self.expected[prompt]

    def whole(self) -> None:
        """Wait until all devices are connected; one that has failed may still sit out."""
        self.user.wait("all devices", lambda status: len(status["cluster"]["devices"]) == 1 + len(self.helpers))

    def table(self) -> str:
        lines = [f"{len(self.outcomes)} faults; ended after, median and worst; longest pause; errors"]
        for fault in Fault:
            of_fault = [outcome for outcome in self.outcomes if outcome.fault is fault]
            if of_fault:
                ended = [outcome.ended_s for outcome in of_fault]
                pause = max(outcome.pause_s for outcome in of_fault)
                errors = sum(outcome.error is not None for outcome in of_fault)
                lines.append(
                    f"  {fault:<40} {len(of_fault):>4}  {statistics.median(ended):5.2f} s {max(ended):5.2f} s  "
                    f"{pause:5.2f} s  {errors}"
                )
        return "\n".join(lines)

    def _do(self, fault: Fault, answer: Answer) -> float:
        """When the request could go on."""
        helper = self.chance.choice(self.helpers)
        match fault:
            case Fault.KILL:
                helper.process.kill()
                helper.process.wait()
            case Fault.TERMINATE:
                helper.process.terminate()
                self.stopping.append(helper)
            case Fault.HICCUP | Fault.STALL:
                seconds = 1.0 if fault is Fault.HICCUP else 4.0
                helper.process.send_signal(signal.SIGSTOP)
                threading.Timer(seconds, helper.process.send_signal, [signal.SIGCONT]).start()
            case Fault.SLEEP:
                self.user.process.send_signal(signal.SIGSTOP)
                time.sleep(4.0)
                self.user.process.send_signal(signal.SIGCONT)
            case Fault.DISK:
                self.broken_disk.touch()
            case Fault.LEAVE:
                answer.leave()
        return time.monotonic()

    def _check(self, outcome: Outcome, prompt: str) -> None:
        if outcome.fault is Fault.LEAVE:
            assert self.expected[prompt].startswith(outcome.text), outcome
            return
        assert outcome.error is None, f"{outcome}\n{self.user.log[-3000:]}"
        assert outcome.text == self.expected[prompt], outcome

    def _repair(self) -> None:
        self.broken_disk.unlink(missing_ok=True)
        while self.stopping:
            self.stopping.pop().process.wait(MOST_END_S)
        for index, helper in enumerate(self.helpers):
            if helper.process.poll() is not None:
                self.helpers[index] = self.launch(helper.name)

    def _forget_plan(self) -> None:
        """Another set of devices needs another plan: one of the helpers comes back as it was."""
        helper = self.helpers[-1]
        helper.process.kill()
        helper.process.wait()
        self.helpers[-1] = self.launch(helper.name)
        self.whole()


def open_files(daemon: Any) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/fd"))


def threads(daemon: Any) -> int:
    return len(os.listdir(f"/proc/{daemon.process.pid}/task"))


def schedule(n: int, chance: random.Random) -> Iterator[tuple[Fault, Moment]]:
    """Each fault at each moment before any comes again, in a random order."""
    every = [(fault, moment) for fault in Fault for moment in Moment]
    while n > 0:
        chance.shuffle(every)
        yield from every[:n]
        n -= len(every)
