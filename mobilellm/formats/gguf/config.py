"""Reads the metadata of a GGUF file as `ModelConfig`."""

from typing import Any

import numpy as np

from mobilellm.formats.gguf.architectures import ARCHITECTURES, GgufArchitecture
from mobilellm.formats.gguf.file import GgufFile
from mobilellm.formats.gguf.names import ROPE_FACTORS
from mobilellm.formats.huggingface.architectures import NotRepresentable
from mobilellm.models.config import ModelConfig, PerBlock, one_or_each
from mobilellm.models.rotary_scaling import RotaryScaling

LLAMA3_FIELD = "mobilellm.rope_scaling.{}"
"""Fields of files that this project wrote: a GGUF file has the divisor of each frequency, and not
the numbers from which the divisors follow."""
# Published with Llama 3.1 and 3.2, which differ in the factor only.
_LLAMA3 = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
_LARGEST_ROUNDING = 1e-4


def read_architecture(file: GgufFile) -> GgufArchitecture:
    """The architecture of the model in a GGUF file.

    Raises:
        NotRepresentable: it is not supported.
        ValueError: the field is missing or damaged.
    """
    name = file.require("general.architecture")
    if name not in ARCHITECTURES:
        raise NotRepresentable(
            f"{file.path} has the architecture {name!r}; only "
            f"{', '.join(map(repr, ARCHITECTURES))} can be imported from GGUF: import the model's "
            "Hugging Face folder instead"
        )
    return ARCHITECTURES[name]


def read_gguf_config(file: GgufFile) -> ModelConfig:
    """Read the configuration of the model in a GGUF file.

    Raises:
        NotRepresentable: it has another architecture, or a setting that cannot be represented.
        ValueError: a field is missing or invalid.
    """
    architecture = read_architecture(file)
    name = architecture.name
    heads = _sizes(file, architecture, "attention.head_count")
    width = file.require(f"{name}.embedding_length")
    head_dim = file.get(f"{name}.attention.key_length", width // _first(heads))
    _check_layers(file, name, head_dim)
    theta = float(file.get(f"{name}.rope.freq_base", 1e4))
    return ModelConfig(
        vocab_size=_vocab_size(file),
        hidden_size=width,
        intermediate_size=_sizes(file, architecture, "feed_forward_length"),
        num_blocks=file.require(f"{name}.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=_sizes(file, architecture, "attention.head_count_kv", heads),
        head_dim=head_dim,
        tie_word_embeddings="output.weight" not in file.tensors,
        max_position_embeddings=file.require(f"{name}.context_length"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, name, head_dim, theta),
        rms_norm_eps=float(file.require(f"{name}.attention.layer_norm_rms_epsilon")),
        qk_norm=architecture.qk_norm,
        eos_token_id=file.get("tokenizer.ggml.eos_token_id", 2),
        bos_token_id=file.get("tokenizer.ggml.bos_token_id", 1),
    )


def _sizes(
    file: GgufFile, architecture: GgufArchitecture, field: str, default: PerBlock | None = None
) -> PerBlock:
    """A size of all layers, or one of each.

    Raises:
        NotRepresentable: it differs between layers of an architecture that does not allow it, or a
            layer lacks attention or the feed-forward layer.
    """
    name = f"{architecture.name}.{field}"
    found = file.require(name) if default is None else file.get(name, default)
    if not isinstance(found, list):
        return found
    if not architecture.block_sizes_differ and len(set(found)) > 1:
        raise NotRepresentable(
            f"{file.path}: {name} differs between layers, which cannot be imported from GGUF"
        )
    if 0 in found:
        raise NotRepresentable(
            f"{file.path}: {name} is 0 in layer {found.index(0)}, which cannot be represented: "
            "every layer of this model family has attention and a feed-forward layer"
        )
    return one_or_each(found)


def _first(sizes: Any) -> int:
    return sizes[0] if isinstance(sizes, tuple) else sizes


def _vocab_size(file: GgufFile) -> int:
    """Rows of the embedding: the metadata may count the tokens without padding."""
    tensor = file.tensors.get("token_embd.weight")
    if tensor is None:
        raise ValueError(f"{file.path} has no tensor token_embd.weight; fetch it again")
    return int(tensor.shape[1])


def _check_layers(file: GgufFile, name: str, head_dim: int) -> None:
    """Check that nothing in the layers differs from this model family.

    Raises:
        NotRepresentable: something does; the message names the field.
    """
    plain = {
        "expert_count": not file.get(f"{name}.expert_count"),
        "attention.sliding_window": not file.get(f"{name}.attention.sliding_window"),
        "rope.dimension_count": file.get(f"{name}.rope.dimension_count", head_dim) == head_dim,
        "attention.value_length": file.get(f"{name}.attention.value_length", head_dim) == head_dim,
        "logit_scale": not file.get(f"{name}.logit_scale"),
    }
    for field, is_plain in plain.items():
        if not is_plain:
            raise NotRepresentable(
                f"{file.path}: {name}.{field}={file.get(f'{name}.{field}')} cannot be represented "
                "by this model family"
            )
    for tensor in file.tensors:
        if tensor.endswith(".bias"):
            raise NotRepresentable(
                f"{file.path}: the tensor {tensor} is a bias, and this model family has none"
            )


def _rope_scaling(file: GgufFile, name: str, head_dim: int, theta: float) -> RotaryScaling | None:
    """The scaling of the rotary frequencies.

    Raises:
        NotRepresentable: it is of another kind.
    """
    kind = file.get(f"{name}.rope.scaling.type", "none")
    factor = file.get(f"{name}.rope.scaling.factor", file.get(f"{name}.rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise NotRepresentable(
            f"{file.path}: {name}.rope.scaling.type={kind} cannot be represented; only linear can"
        )
    if factor not in (0, 1):
        return RotaryScaling(rope_type="linear", factor=float(factor))
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    given = np.asarray(tensor.data, dtype=np.float64).reshape(-1)
    if np.all(given == 1):
        return None
    known = {field: file.get(LLAMA3_FIELD.format(field), value) for field, value in _LLAMA3.items()}
    factor = file.get(LLAMA3_FIELD.format("factor"), round(float(given.max()), 6))
    scaling = RotaryScaling(rope_type="llama3", factor=factor, **known)
    expected = llama3_divisors(scaling, head_dim, theta)
    if given.shape != expected.shape or np.abs(given / expected - 1).max() > _LARGEST_ROUNDING:
        raise NotRepresentable(
            f"{file.path}: {ROPE_FACTORS} is not the scaling of Llama 3.1 (llama3), and cannot be "
            "represented; import the model's Hugging Face folder instead"
        )
    return scaling


def llama3_divisors(scaling: RotaryScaling, head_dim: int, theta: float) -> np.ndarray:
    """The divisor of each rotary frequency, (head_dim / 2,), for a scaling of the type llama3."""
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    original = scaling.original_max_position_embeddings
    if low is None or high is None or original is None:
        raise ValueError("rope_type must be llama3")
    frequencies = theta ** (-np.arange(0, head_dim, 2) / head_dim)
    turns = original * frequencies / (2 * np.pi)
    kept = np.clip((turns - low) / (high - low), 0, 1)
    return 1 / (kept + (1 - kept) / scaling.factor)
