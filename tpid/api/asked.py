"""What a body with a prompt asks of the engine, in whatever API it came."""

from typing import Protocol

from tpid.engine.constraint import Grammar
from tpid.engine.generation import GenerationRequest
from tpid.engine.prompt import Prompt
from tpid.model.sampling import SamplingParams
from tpid.model.stop_strings import StopStrings
from tpid.model.tool_format import ToolUse


class Asked(Protocol):
    """A body. Its properties raise RequestError where a value is out of range."""

    @property
    def prompt(self) -> Prompt: ...

    @property
    def sampling(self) -> SamplingParams: ...

    @property
    def answer_tokens(self) -> int | None:
        """The most that an answer may have; None: until the context is full."""
        ...

    @property
    def stop_strings(self) -> tuple[str, ...]: ...

    @property
    def n_answers(self) -> int: ...

    @property
    def told_logprobs(self) -> int | None:
        """How many likely tokens to tell beside each; None: nothing of this kind."""
        ...

    @property
    def grammar(self) -> Grammar | None: ...

    @property
    def tool_use(self) -> ToolUse | None: ...

    @property
    def ignores_eos(self) -> bool: ...

    @property
    def size_bytes(self) -> int: ...


class Plainly:
    """What most bodies ask for: one answer, which its end token ends."""

    @property
    def n_answers(self) -> int:
        return 1

    @property
    def ignores_eos(self) -> bool:
        return False


def generation_request(body: Asked) -> GenerationRequest:
    """Raises RequestError where a sampling parameter or a stop string is out of range."""
    StopStrings(body.stop_strings)  # here, before the request waits for its turn
    return GenerationRequest(
        prompt=body.prompt,
        sampling=body.sampling,
        max_tokens=body.answer_tokens,
        stop=body.stop_strings,
        n=body.n_answers,
        top_logprobs=body.told_logprobs,
        grammar=body.grammar,
        tools=body.tool_use,
        ignore_eos=body.ignores_eos,
        size_bytes=body.size_bytes,
    )
