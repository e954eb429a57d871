"""What the engine is told by the configuration."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class EngineSettings:
    context_tokens: int  # longest sequence, unless the model ends earlier
    max_pass_tokens: int  # tokens of a prefill chunk
    max_waiting_requests: int  # beyond the one that runs
    wire_dtype: str
    use_all_devices: bool  # also those that make a token slower
    cluster_wait_s: float  # how long a request waits for the lease and for the devices' answers
