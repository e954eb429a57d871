"""A GGUF file of random weights, so that llama.cpp and tpid run the very same model.

    python benchmarks/random_gguf.py tinyllama-1.1b --type Q4_0 [--to .bench/gguf]

Every matrix is of the one type, the embedding and the head as well (llama.cpp's own quantizer gives the head more
bits). Rows are drawn once for each length and quantized by the reference quantizer, or made of random blocks where it
cannot; they come again in each matrix.
"""

import argparse
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType

import random_blocks
from random_tokenizer import CHAT_TEMPLATE, PRE_TOKENIZER, random_vocabulary
from shapes import SHAPES, name_of, spec_of
from tpid.errors import TpidError, UnsupportedModelError
from tpid.model.gguf.source import NAMES
from tpid.model.inventory import matrix_shapes, vector_shapes
from tpid.model.spec import Architecture, ModelSpec

DEFAULT_DIRECTORY = Path(".bench/gguf")
TYPES = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", *random_blocks.TYPES)

_POOL_ROWS = 1024
_FILE_TYPES = {  # general.file_type
    "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q8_0": 7, "Q5_0": 8, "Q5_1": 9, "Q2_K": 10, "Q3_K": 12, "Q4_K": 15, "Q5_K": 17,
    "Q6_K": 18, "IQ4_NL": 25, "IQ4_XS": 30,
}  # fmt: skip


def write_gguf(shape: str, type: str, path: Path, layers: int | None = None) -> None:
    """Whole or not at all. Raises UnsupportedModelError where the shape is not one that can be written so."""
    spec = spec_of(shape, layers)
    rope = spec.layer(0).rope
    if spec.architecture is not Architecture.LLAMA or rope is None or rope.factors is not None:
        raise UnsupportedModelError(f"{shape}: only Llama shapes without scaled RoPE can be written as GGUF.")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".partial")
    writer = gguf.GGUFWriter(aside, "llama")
    _add_metadata(writer, spec, type)
    tensors = list(_tensors(spec, type))
    for name, array in tensors:
        writer.add_tensor_info(name, array.shape, array.dtype, array.nbytes, _raw_type(array, type))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for _, array in tensors:
        writer.write_tensor_data(np.ascontiguousarray(array))
    writer.close()
    aside.replace(path)


def _raw_type(array: np.ndarray, type: str) -> GGMLQuantizationType | None:
    return GGMLQuantizationType[type] if array.ndim == 2 else None


def _add_metadata(writer: gguf.GGUFWriter, spec: ModelSpec, type: str) -> None:
    writer.add_file_type(_FILE_TYPES[type])
    writer.add_context_length(spec.context_tokens)
    writer.add_embedding_length(spec.hidden_size)
    writer.add_block_count(spec.n_layers)
    writer.add_feed_forward_length(spec.ffn_size)
    writer.add_head_count(spec.n_heads)
    writer.add_head_count_kv(spec.n_kv_heads)
    writer.add_key_length(spec.head_dim)
    writer.add_value_length(spec.head_dim)
    writer.add_rope_dimension_count(spec.head_dim)
    writer.add_rope_freq_base(spec.ropes[0].theta)
    writer.add_layer_norm_rms_eps(spec.norm_eps)
    writer.add_vocab_size(spec.vocab_size)
    words = random_vocabulary(spec.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(PRE_TOKENIZER)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    writer.add_token_merges([" ".join(pair) for pair in words.merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template(CHAT_TEMPLATE)


def _tensors(spec: ModelSpec, type: str) -> Iterator[tuple[str, np.ndarray]]:
    """Matrices as the rows' bytes, vectors as fp32. All matrices of one width are views of few arrays."""
    pool = cache(_draw_rows)
    stretched = cache(lambda rows, columns: np.resize(pool(columns, type), (rows, pool(columns, type).shape[1])))
    for name, (rows, columns) in matrix_shapes(spec).items():
        yield NAMES.of(name), stretched(rows, columns)
    for name, (size,) in vector_shapes(spec).items():
        yield NAMES.of(name), np.ones(size, np.float32)


def _draw_rows(columns: int, type: str) -> np.ndarray:
    """[rows, bytes] uint8, or fp16 [rows, columns]; mean 0, variance 1 / columns."""
    if type in random_blocks.TYPES:
        rng = np.random.default_rng(columns)
        return random_blocks.random_blocks(rng, type, _POOL_ROWS, columns, 1 / np.sqrt(columns))
    values = np.random.default_rng(columns).standard_normal((_POOL_ROWS, columns), np.float32)
    return gguf.quants.quantize(values / np.sqrt(np.float32(columns)), GGMLQuantizationType[type])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", help=f"a config.json, or one of {', '.join(SHAPES)}")
    parser.add_argument("--type", choices=TYPES, default="Q4_0")
    parser.add_argument("--to", type=Path, default=DEFAULT_DIRECTORY, help="directory of GGUF files")
    parser.add_argument("--layers", type=int, help="no more than these, for a quick check")
    arguments = parser.parse_args()
    depth = f"-{arguments.layers}l" if arguments.layers else ""
    path = arguments.to / f"{name_of(arguments.shape)}{depth}-{arguments.type.lower()}.gguf"
    try:
        write_gguf(arguments.shape, arguments.type, path, arguments.layers)
    except (TpidError, OSError, ValueError) as error:
        print(f"random_gguf: {error}", file=sys.stderr)
        return 1
    print(f"{path}  {path.stat().st_size / 1e9:.2f} GB")
    return 0


if __name__ == "__main__":
    sys.exit(main())
