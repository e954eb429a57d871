"""`options` of Ollama's requests: how tokens are chosen. docs/api.md says what becomes of each."""

from typing import Annotated

from pydantic import Field

from tpid.api.bodies import JsonBody
from tpid.api.fields import Opaque, StopField, only, sampling_from
from tpid.model.sampling import MAX_REPETITION_PENALTY, MIN_REPETITION_PENALTY, SamplingParams

_SAMPLED_OTHERWISE = "tokens are chosen by temperature, top_k, top_p and min_p"


class Options(JsonBody):
    """Null is each option's default."""

    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repeat_penalty: Annotated[float, Field(ge=MIN_REPETITION_PENALTY, le=MAX_REPETITION_PENALTY)] | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    seed: int | None = None
    num_predict: int | None = None
    stop: StopField = ()

    # How a process of Ollama's is run; here the configuration says it.
    num_ctx: Opaque = None
    num_keep: Opaque = None
    num_batch: Opaque = None
    num_gpu: Opaque = None
    main_gpu: Opaque = None
    num_thread: Opaque = None
    numa: Opaque = None
    low_vram: Opaque = None
    f16_kv: Opaque = None
    use_mmap: Opaque = None
    use_mlock: Opaque = None
    vocab_only: Opaque = None
    logits_all: Opaque = None
    embedding_only: Opaque = None
    repeat_last_n: Opaque = None
    penalize_newline: Opaque = None
    mirostat_tau: Opaque = None
    mirostat_eta: Opaque = None

    mirostat: Annotated[None, only(0, because=_SAMPLED_OTHERWISE)] = None
    tfs_z: Annotated[None, only(1, 1.0, because=_SAMPLED_OTHERWISE)] = None
    typical_p: Annotated[None, only(1, 1.0, because=_SAMPLED_OTHERWISE)] = None

    @property
    def answer_tokens(self) -> int | None:
        """The most that an answer may have: a number below 1 is no bound, as with Ollama."""
        return self.num_predict if self.num_predict is not None and self.num_predict > 0 else None

    @property
    def sampling(self) -> SamplingParams:
        """Raises RequestError where a value is out of range."""
        return sampling_from(
            {
                "temperature": self.temperature,
                "top_k": None if self.top_k is None else max(self.top_k, 0),
                "top_p": self.top_p,
                "min_p": self.min_p,
                "repetition_penalty": self.repeat_penalty,
                "frequency_penalty": self.frequency_penalty,
                "presence_penalty": self.presence_penalty,
                "seed": None if self.seed == -1 else self.seed,
            }
        )
