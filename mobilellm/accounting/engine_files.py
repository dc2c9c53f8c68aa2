"""Sizes of models in the formats of engines by arithmetic: bits per weight of every tensor."""

from collections import Counter
from dataclasses import replace

from mobilellm.accounting.memory import TABLES, kv_cache_bytes_per_token
from mobilellm.accounting.parameters import count_parameters, head_dim
from mobilellm.accounting.storage import stored_tensors
from mobilellm.models.checks import check_choice, check_positive
from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling

GGUF_BITS = {"f32": 32.0, "f16": 16.0, "q8_0": 8.5, "q4_0": 4.5, "q4_1": 5.0}
"""Bits per weight of a matrix, with the 16-bit scales (and minima) of blocks of 32 weights."""
ENGINE_TYPES = {
    "torch": ("f32",),
    "llamacpp": tuple(GGUF_BITS),
    "executorch": ("fp32", "8da8w", "8da4w"),
}
"""The types of weights that each engine is measured with; the first is its default."""
CACHE_BYTES = {"torch": 4, "llamacpp": 2, "executorch": 4}
"""Bytes of one entry of the KV cache: llama.cpp keeps 16 bits."""
BLOCK = 32
"""Weights of a row that share a scale."""
IN_BLOCKS = {"llamacpp": ("q8_0", "q4_0", "q4_1"), "executorch": ("8da4w",)}
"""The types with such blocks."""


def engine_file_bytes(config: ModelConfig, engine: str, kind: str) -> int:
    """Bytes of all tensors in the file of an engine, without headers, code and tokenizer.

    torch has the model as it is stored. llama.cpp has shared blocks once per application, and
    ExecuTorch once. Both have compressed matrices as dense ones, and vectors in 32 bits. With
    ExecuTorch's quantized types, table and output head have 8 bits each and are stored separately.

    Raises:
        ValueError: the engine or its type is not known.
    """
    check_choice("engine", engine, tuple(ENGINE_TYPES))
    check_choice("type", kind, ENGINE_TYPES[engine])
    if engine == "torch":
        return -(-sum(tensors.bits for tensors in stored_tensors(config, 32)) // 8)
    dense = replace(config, compressed_layers=())
    uses = Counter(dense.layer_order)
    bits = 0.0
    weights = 0
    for name, (rows, columns) in _sizes(dense).items():
        weights += rows * columns
        times = uses[_block(name)] if engine == "llamacpp" and name not in TABLES else 1
        bits += times * rows * columns * _bits(engine, kind, name, columns)
    norms = 32 * (count_parameters(dense).stored - weights)
    if engine == "llamacpp":
        final = 32 * dense.hidden_size
        norms = (norms - final) * dense.num_layers // dense.num_blocks + final
        norms += 32 * _added_vectors(dense)
    elif kind != "fp32" and dense.tie_word_embeddings:
        bits += dense.vocab_size * (8 * dense.hidden_size + 32)
    return -(-int(bits + norms) // 8)


def engine_cache_bytes(config: ModelConfig, engine: str, context: int) -> int:
    """Bytes of the keys and values of `context` tokens in an engine.

    Raises:
        ValueError: the engine is not known, or `context` is below 1.
    """
    check_choice("engine", engine, tuple(CACHE_BYTES))
    check_positive("context", context)
    return context * kv_cache_bytes_per_token(config, CACHE_BYTES[engine])


def can_have_type(config: ModelConfig, engine: str, kind: str) -> bool:
    """Whether the rows of all matrices consist of whole blocks of a type, as engines require."""
    if kind not in IN_BLOCKS.get(engine, ()):
        return True
    sizes = _sizes(replace(config, compressed_layers=()))
    in_blocks = {n: c for n, (_, c) in sizes.items() if engine == "llamacpp" or n not in TABLES}
    return all(columns % BLOCK == 0 for columns in in_blocks.values())


def _added_vectors(config: ModelConfig) -> int:
    """Numbers that a GGUF file has and the model computes: weights of 1, and rotary factors."""
    width = head_dim(config)
    weights = 2 * width * config.num_layers if config.qk_norm == "l2" else 0
    scaling = config.rope_scaling
    has_factors = isinstance(scaling, RotaryScaling) and scaling.rope_type == "llama3"
    return weights + (width // 2 if has_factors else 0)


def _sizes(config: ModelConfig) -> dict[str, tuple[int, int]]:
    return {name: (size[0], size[1]) for name, size in config.matrix_sizes.items()}


def _block(name: str) -> int:
    return next(int(part) for part in name.split(".") if part.isdigit())


def _bits(engine: str, kind: str, name: str, columns: int) -> float:
    """Bits per weight of a matrix, scales included."""
    if engine == "llamacpp":
        return GGUF_BITS[kind]
    if kind == "fp32":
        return 32.0
    if kind == "8da8w" or name in TABLES:
        return 8 + 32 / columns
    return 4 + 16 / BLOCK
