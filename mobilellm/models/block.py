"""One pre-norm Transformer block."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from mobilellm.models.attention import Attention, KeysValues
from mobilellm.models.cache import KVCache
from mobilellm.models.config import ModelConfig
from mobilellm.models.feed_forward import ReLUFeedForward, SwiGLU
from mobilellm.models.norm import RMSNorm, as_operand
from mobilellm.models.rotary import Rotary


class BlockOutput(NamedTuple):
    """Outputs of one application of a block."""

    hidden: Float[Tensor, "batch seq hidden"]
    """Residual stream after the block, (batch, seq, hidden)."""
    keys_values: KeysValues
    """Keys and values that were attended to, each (batch, kv_heads, keys, head_dim)."""
    attention: Float[Tensor, "batch heads queries keys"] | None
    """Attention weights (batch, heads, queries, keys); None unless requested."""
    feed_forward: Float[Tensor, "batch seq hidden"]
    """Output of the feed-forward layer, before residual multiplier and addition, (batch, seq,
    hidden)."""


class TransformerBlock(nn.Module):
    """A pre-norm block: h = x + m × attention(norm(x)), output h + m × feed_forward(norm(h)).

    m is `residual_multiplier`.

    A block does not store a layer index, because a shared block is applied at several layers.
    Everything that depends on the layer is an argument of `forward`.
    """

    def __init__(self, config: ModelConfig, index: int) -> None:
        """Create the stored block `index` of `config`; the index only selects the sizes."""
        super().__init__()
        shape = config.block_shapes[index]
        hidden_size, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm = RMSNorm(hidden_size, eps)
        self.attention = Attention(
            hidden_size,
            shape.num_attention_heads,
            shape.num_key_value_heads,
            config.head_dim,  # pyright: ignore[reportArgumentType]
            qk_norm=config.qk_norm,
            eps=eps,
            multiplier=config.attention_multiplier,
        )
        self.feed_forward_norm = RMSNorm(hidden_size, eps)
        feed_forward = SwiGLU if config.feed_forward == "swiglu" else ReLUFeedForward
        self.feed_forward = feed_forward(hidden_size, shape.intermediate_size)
        self.residual_multiplier = config.residual_multiplier
        self._build_compressed_layers(config, index)

    def _build_compressed_layers(self, config: ModelConfig, index: int) -> None:
        """Replace the dense layers that are compressed according to `config`."""
        prefix, sizes = f"blocks.{index}.", config.matrix_sizes
        for name, layer_shape in config.layer_shapes.items():
            if name.startswith(prefix):
                layer = layer_shape.empty(sizes[name])
                self.set_submodule(name.removeprefix(prefix), layer)

    def forward(
        self,
        x: Float[Tensor, "batch seq hidden"],
        rotary: Rotary,
        mask: Bool[Tensor, "#batch 1 seq keys"] | BlockMask | None = None,
        keys_values: KeysValues | None = None,
        *,
        cache: KVCache | None = None,
        slot: int = 0,
        need_weights: bool = False,
    ) -> BlockOutput:
        """Apply the block to the residual stream; arguments as in `Attention.forward`."""
        attended, used_keys_values, weights = self.attention(
            as_operand(self.attention_norm(x)),
            rotary,
            mask,
            keys_values=keys_values,
            cache=cache,
            slot=slot,
            need_weights=need_weights,
        )
        x = self._add(x, attended)
        fed = self.feed_forward(as_operand(self.feed_forward_norm(x)))
        return BlockOutput(self._add(x, fed), used_keys_values, weights, fed)

    def _add(
        self, x: Float[Tensor, "batch seq hidden"], branch: Float[Tensor, "batch seq hidden"]
    ) -> Float[Tensor, "batch seq hidden"]:
        """The residual stream after what a layer adds to it."""
        if self.residual_multiplier == 1:
            return x + branch
        return torch.add(x, branch, alpha=self.residual_multiplier)
