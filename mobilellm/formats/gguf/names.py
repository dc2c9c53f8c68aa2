"""Names of tensors in GGUF files, and in models of this project."""

import re

TOP_NAMES = {
    "token_embd.weight": "embedding.weight",
    "output_norm.weight": "norm.weight",
    "output.weight": "head.weight",
}
BLOCK_NAMES = {
    "attn_norm": "attention_norm",
    "ffn_norm": "feed_forward_norm",
    "attn_q": "attention.q_proj",
    "attn_k": "attention.k_proj",
    "attn_v": "attention.v_proj",
    "attn_output": "attention.o_proj",
    "attn_q_norm": "attention.q_norm",
    "attn_k_norm": "attention.k_norm",
    "ffn_gate": "feed_forward.gate_proj",
    "ffn_up": "feed_forward.up_proj",
    "ffn_down": "feed_forward.down_proj",
}
ROPE_FACTORS = "rope_freqs.weight"
"""Name of the tensor with the divisors of the rotary frequencies."""
_GGUF_TOP_NAMES = {ours: theirs for theirs, ours in TOP_NAMES.items()}
_GGUF_BLOCK_NAMES = {ours: theirs for theirs, ours in BLOCK_NAMES.items()}


def own_name(name: str) -> str:
    """`blk.3.ffn_up.weight` -> `blocks.3.feed_forward.up_proj.weight`; others are unchanged."""
    if name in TOP_NAMES:
        return TOP_NAMES[name]
    match = re.fullmatch(r"blk\.(\d+)\.(\w+)\.weight", name)
    if match is None or match[2] not in BLOCK_NAMES:
        return name
    return f"blocks.{match[1]}.{BLOCK_NAMES[match[2]]}.weight"


def gguf_top_name(name: str) -> str | None:
    """`norm.weight` -> `output_norm.weight`; None for the weights of blocks."""
    return _GGUF_TOP_NAMES.get(name)


def gguf_layer_name(layer: int, name: str) -> str:
    """`feed_forward.up_proj.weight` in layer 3 -> `blk.3.ffn_up.weight`."""
    return f"blk.{layer}.{_GGUF_BLOCK_NAMES[name.removesuffix('.weight')]}.weight"
