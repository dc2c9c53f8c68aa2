"""The types in which the tensors of a GGUF file are written.

Vectors stay in float32, as llama.cpp requires. The types of matrices are those that the package
`gguf` computes: `q8_0` has 8 bits per weight and a 16-bit scale for 32 weights of a row, `q4_0` has
4 bits and such a scale, and `q4_1` also a 16-bit minimum.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from mobilellm.models.checks import check_choice

TYPES = ("f32", "f16", "q8_0", "q4_0", "q4_1")
FALLBACKS = ("f16", "f32")
VECTOR_TYPE = "f32"
TABLES = ("token_embd.weight", "output.weight")
"""The token embedding and an output head of its own."""
_LARGEST_HALF = 65504


def choose_types(
    sizes: Mapping[str, tuple[int, ...]],
    kind: str,
    *,
    table_kind: str | None = None,
    fallback: str | None = None,
) -> dict[str, str]:
    """The type of every tensor.

    Args:
        sizes: shapes of the tensors by their names in the file.
        kind: type of the matrices.
        table_kind: type of the token embedding and of an output head of its own; default: `kind`.
        fallback: type of the matrices whose rows do not consist of whole blocks of their type;
            None: they are refused.

    Returns:
        Types by name.

    Raises:
        ValueError: a type is not known, a matrix cannot be written in its type, or `fallback` is
            given for types that hold every matrix.
    """
    check_choice("type", kind, TYPES)
    check_choice("table_type", table_kind or kind, TYPES)
    if fallback is not None:
        check_choice("fallback", fallback, FALLBACKS)
        if block_size(kind) == block_size(table_kind or kind) == 1:
            raise ValueError(
                f"fallback={fallback} has no effect on the type {kind}, which can hold every "
                "matrix; leave it out"
            )
    chosen: dict[str, str] = {}
    for name, size in sizes.items():
        wanted = VECTOR_TYPE if len(size) == 1 else (table_kind if name in TABLES else None) or kind
        block = block_size(wanted)
        if size[-1] % block == 0:
            chosen[name] = wanted
        elif fallback is None:
            raise ValueError(
                f"{name} has rows of {size[-1]} weights, and the type {wanted} needs whole blocks "
                f"of {block}: {_row_field(name)} of {_near(size[-1], block)} would do; use "
                "--fallback f16 to write such matrices in 16 bits, or another --type"
            )
        else:
            chosen[name] = fallback
    return chosen


def block_size(kind: str) -> int:
    """Number of weights that are stored together in a type."""
    import gguf

    return gguf.GGML_QUANT_SIZES[gguf_type(kind)][0]


def tensor_bytes(size: tuple[int, ...], kind: str) -> int:
    """Bytes of a tensor in a type, without the alignment to 32 bytes in the file."""
    import gguf

    block, block_bytes = gguf.GGML_QUANT_SIZES[gguf_type(kind)]
    return int(np.prod(size)) // block * block_bytes


def gguf_type(kind: str) -> Any:
    """The `gguf.GGMLQuantizationType` of a type."""
    import gguf

    return gguf.GGMLQuantizationType[kind.upper()]


def encode(tensor: Tensor, name: str, kind: str) -> np.ndarray:
    """The values of a tensor in a type, as `gguf.GGUFWriter.add_tensor` takes them.

    Args:
        tensor: floating-point numbers of any type.
        name: of the tensor, for messages.
        kind: one of `TYPES`, whose blocks divide the rows.

    Raises:
        ValueError: values are not finite, or too large for 16 bits.
    """
    import gguf

    values = tensor.detach().float().cpu().numpy()
    if not np.isfinite(values).all():
        raise ValueError(
            f"{name} has values that are not finite (NaN or infinite), with which the model gives "
            "no text; export an earlier checkpoint"
        )
    if kind == "f16" and np.abs(values).max(initial=0) > _LARGEST_HALF:
        raise ValueError(
            f"{name} has values above {_LARGEST_HALF}, the largest of the type f16; use f32"
        )
    return gguf.quantize(np.ascontiguousarray(values), gguf_type(kind))


def _row_field(name: str) -> str:
    """The size of the model that is the length of the rows of a matrix."""
    fields = {"ffn_down": "an intermediate_size", "attn_output": "num_attention_heads × head_dim"}
    return fields.get(name.split(".")[-2], "a hidden_size")


def _near(size: int, block: int) -> str:
    below = size // block * block
    return f"{below} or {below + block}" if below else str(block)
