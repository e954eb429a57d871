"""A published model as the pack writer reads it: named tensors, whatever the file format behind them.

Matrix names (`[rows = outputs, columns = inputs]`): `embed` and `head` [vocab, hidden]; for each layer i
`layers.{i}.` + `q` [n_heads * head_dim, hidden], `k` and `v` [n_kv_heads * head_dim, hidden],
`o` [hidden, n_heads * head_dim], `gate` and `up` [ffn, hidden], `down` [hidden, ffn].

Vector names: `final_norm`; for each layer `attn_norm`, `ffn_norm`, and where the spec asks for them
`q_bias`, `k_bias`, `v_bias`, `o_bias`, `gate_bias`, `up_bias`, `down_bias`, `q_norm`, `k_norm`.

Rows of q, k and their biases are in the half-split order of RoPE, as Hugging Face publishes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from tpid.model.sampling_defaults import SamplingDefaults
from tpid.model.spec import ModelSpec
from tpid.model.weights import F32, Format, Matrix


@dataclass(frozen=True, slots=True)
class TokenizerFiles:
    """What a pack needs to turn text into ids and back, ready to be written."""

    tokenizer_json: bytes  # the `tokenizers` library's own format
    chat_template: str | None  # Jinja
    bos_token: str | None
    eos_token: str | None
    eos_ids: tuple[int, ...]  # any of these ends an answer
    other_tokens: Mapping[str, str] = field(default_factory=dict)  # by the names that templates know, as pad_token
    notes: tuple[str, ...] = ()  # what had to be guessed or left out, for whoever imports the model


class WeightSource(Protocol):
    """Reads are lazy; a read takes memory for the rows asked for and no more."""

    @property
    def spec(self) -> ModelSpec: ...

    @property
    def fingerprint(self) -> str:
        """Changes when the published files change; binds a half-done import to its source."""
        ...

    @property
    def published_bytes(self) -> int:
        """Of the files that hold the weights."""
        ...

    @property
    def notes(self) -> list[str]:
        """Sentences for the owner: what was guessed or lost so far in what was read."""
        ...

    def natural_format(self, name: str) -> Format:
        """The format that loses least on this matrix."""
        ...

    def matrix(self, name: str, start_row: int, stop_row: int) -> Matrix:
        """Rows start…stop of a matrix, in its natural format. Raises ModelFileError."""
        ...

    def vector(self, name: str) -> F32:
        """A whole vector. Raises ModelFileError."""
        ...

    def tokenizer(self) -> TokenizerFiles:
        """Raises TokenizerError where the model has none or an unknown one."""
        ...

    def sampling_defaults(self) -> SamplingDefaults:
        """What its publisher says of sampling. Raises ModelFileError where that cannot be read."""
        ...

    def close(self) -> None: ...
