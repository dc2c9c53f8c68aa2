"""The models of Hugging Face and LitGPT in a given shape.

Imported by the Pythons of these projects too, in which neither the other one nor this project's
package need to be installed; hence the imports inside functions.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mobilellm.models import ModelConfig

Shape = Mapping[str, Any]

SAME_NAME = (
    "vocab_size", "hidden_size", "intermediate_size", "num_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "max_position_embeddings", "rope_theta", "rms_norm_eps",
    "tie_word_embeddings",
)  # fmt: skip


def llama_shape(config: "ModelConfig") -> dict[str, Any]:
    """Return the numbers that describe a plain Llama, as plain data.

    Raises:
        ValueError: the model is no plain Llama, so that the other projects cannot build it.
    """
    plain = {"share_kv": "own", "feed_forward": "swiglu", "qk_norm": "none"}
    for name, value in plain.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"model.{name}={getattr(config, name)} cannot be built by the other projects; use "
                f"model.{name}={value}"
            )
    if config.num_layers != config.num_blocks:
        raise ValueError(
            f"model.block_repeats={config.block_repeats} shares blocks, which the other projects "
            "do not; use model.block_repeats=1"
        )
    shape = {name: getattr(config, name) for name in SAME_NAME}
    for name in ("intermediate_size", "num_attention_heads", "num_key_value_heads"):
        if not isinstance(shape[name], int):
            raise ValueError(
                f"model.{name} differs between blocks, which the other projects do not support; "
                "use one value"
            )
    return shape


def huggingface_llama(shape: Shape) -> Any:
    """Build a `LlamaForCausalLM` with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape["vocab_size"],
            hidden_size=shape["hidden_size"],
            intermediate_size=shape["intermediate_size"],
            num_hidden_layers=shape["num_layers"],
            num_attention_heads=shape["num_attention_heads"],
            num_key_value_heads=shape["num_key_value_heads"],
            head_dim=shape["head_dim"],
            max_position_embeddings=shape["max_position_embeddings"],
            rope_parameters={"rope_type": "default", "rope_theta": shape["rope_theta"]},
            rms_norm_eps=shape["rms_norm_eps"],
            tie_word_embeddings=shape["tie_word_embeddings"],
            attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
        )
    )


def litgpt_config(shape: Shape, sequence_length: int) -> Any:
    """Return LitGPT's `Config`; tying is a setting of its training, not of its model."""
    from litgpt.config import Config  # pyright: ignore[reportMissingImports]

    return Config(
        block_size=sequence_length,
        vocab_size=shape["vocab_size"],
        padded_vocab_size=shape["vocab_size"],
        n_layer=shape["num_layers"],
        n_embd=shape["hidden_size"],
        n_head=shape["num_attention_heads"],
        n_query_groups=shape["num_key_value_heads"],
        head_size=shape["head_dim"],
        intermediate_size=shape["intermediate_size"],
        rotary_percentage=1.0,
        rope_base=int(shape["rope_theta"]),
        norm_eps=shape["rms_norm_eps"],
        parallel_residual=False,
        bias=False,
        norm_class_name="RMSNorm",
        mlp_class_name="LLaMAMLP",
    )
