"""Reads the metadata of a GGUF file of the Llama architecture as `ModelConfig`."""

import numpy as np

from mobilellm.formats.gguf.file import GgufFile
from mobilellm.formats.huggingface.architectures import NotRepresentable
from mobilellm.models.config import ModelConfig
from mobilellm.models.rotary_scaling import RotaryScaling

_ARCHITECTURE = "llama"
ROPE_FACTORS = "rope_freqs.weight"
"""Name of the tensor with the divisors of the rotary frequencies."""
# Published with Llama 3.1 and 3.2, which differ in the factor only. A GGUF file has the resulting
# divisor of each frequency, and not these numbers.
_LLAMA3 = {
    "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192,
}  # fmt: skip
_LARGEST_ROUNDING = 1e-4


def read_gguf_config(file: GgufFile) -> ModelConfig:
    """Read the architecture of the model in a GGUF file.

    Raises:
        NotRepresentable: it has another architecture, or a setting that cannot be represented.
        ValueError: a field is missing or invalid.
    """
    architecture = file.require("general.architecture")
    if architecture != _ARCHITECTURE:
        raise NotRepresentable(
            f"{file.path} has the architecture {architecture!r}; only {_ARCHITECTURE!r} can be "
            "imported from GGUF: import the model's Hugging Face folder instead"
        )
    _check_layers(file)
    heads = file.require("llama.attention.head_count")
    width = file.require("llama.embedding_length")
    head_dim = file.get("llama.attention.key_length", width // heads)
    theta = float(file.get("llama.rope.freq_base", 1e4))
    return ModelConfig(
        vocab_size=_vocab_size(file),
        hidden_size=width,
        intermediate_size=file.require("llama.feed_forward_length"),
        num_blocks=file.require("llama.block_count"),
        num_attention_heads=heads,
        num_key_value_heads=file.get("llama.attention.head_count_kv", heads),
        head_dim=head_dim,
        tie_word_embeddings="output.weight" not in file.tensors,
        max_position_embeddings=file.require("llama.context_length"),
        rope_theta=theta,
        rope_scaling=_rope_scaling(file, head_dim, theta),
        rms_norm_eps=float(file.require("llama.attention.layer_norm_rms_epsilon")),
        eos_token_id=file.get("tokenizer.ggml.eos_token_id", 2),
        bos_token_id=file.get("tokenizer.ggml.bos_token_id", 1),
    )


def _vocab_size(file: GgufFile) -> int:
    """Rows of the embedding: the metadata may count the tokens without padding."""
    tensor = file.tensors.get("token_embd.weight")
    if tensor is None:
        raise ValueError(f"{file.path} has no tensor token_embd.weight; fetch it again")
    return int(tensor.shape[1])


def _check_layers(file: GgufFile) -> None:
    """Check that nothing in the layers differs from Llama.

    Raises:
        NotRepresentable: something does; the message names the field.
    """
    heads = file.require("llama.attention.head_count")
    width, rotated = file.require("llama.embedding_length"), file.get("llama.rope.dimension_count")
    if isinstance(heads, list) or isinstance(file.get("llama.attention.head_count_kv"), list):
        raise NotRepresentable(
            f"{file.path}: llama.attention.head_count differs between layers, which cannot be "
            "imported from GGUF"
        )
    head_dim = file.get("llama.attention.key_length", width // heads)
    plain = {
        "llama.expert_count": not file.get("llama.expert_count"),
        "llama.attention.sliding_window": not file.get("llama.attention.sliding_window"),
        "llama.rope.dimension_count": rotated in (None, head_dim),
        "llama.attention.value_length": file.get("llama.attention.value_length", head_dim)
        == head_dim,
        "llama.logit_scale": not file.get("llama.logit_scale"),
    }
    for name, is_plain in plain.items():
        if not is_plain:
            raise NotRepresentable(
                f"{file.path}: {name}={file.get(name)} cannot be represented by this model family"
            )
    for name in file.tensors:
        if name.endswith(".bias"):
            raise NotRepresentable(
                f"{file.path}: the tensor {name} is a bias, and this model family has none"
            )


def _rope_scaling(file: GgufFile, head_dim: int, theta: float) -> RotaryScaling | None:
    """The scaling of the rotary frequencies.

    Raises:
        NotRepresentable: it is of another kind.
    """
    kind = file.get("llama.rope.scaling.type", "none")
    factor = file.get("llama.rope.scaling.factor", file.get("llama.rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        raise NotRepresentable(
            f"{file.path}: llama.rope.scaling.type={kind} cannot be represented; only linear can"
        )
    if factor not in (0, 1):
        return RotaryScaling(rope_type="linear", factor=float(factor))
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    given = np.asarray(tensor.data, dtype=np.float64).reshape(-1)
    if np.all(given == 1):
        return None
    scaling = RotaryScaling(rope_type="llama3", factor=round(float(given.max()), 6), **_LLAMA3)
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
