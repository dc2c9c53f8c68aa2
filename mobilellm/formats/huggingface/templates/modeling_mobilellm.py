"""A decoder-only Transformer with shared blocks and factorised matrices, for `transformers`.

This file is part of mobilellm (Apache-2.0). It lies in exported folders, from which
`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` loads the model, with torch
and transformers alone.

The model stores every block once, and runs the blocks in the order `layer_order`.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicCache
from transformers.modeling_outputs import CausalLMOutputWithPast

from .factorized_mobilellm import FactorizedLinear, make_linear


class MobileLLMConfig(PretrainedConfig):
    """The architecture is the dictionary `model`; see `ModelConfig` in mobilellm for its fields."""

    model_type = "mobilellm_custom"

    def __init__(self, model: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Keep the architecture, and derive what `transformers` reads from its own fields."""
        super().__init__(**kwargs)
        self.model = model or {}
        self.vocab_size = self.model.get("vocab_size")
        self.hidden_size = self.model.get("hidden_size")
        self.max_position_embeddings = self.model.get("max_position_embeddings")
        # The number of layers that have keys and values of their own.
        order = self.model.get("layer_order", [])
        shares_keys = self.model.get("share_kv") == "first"
        self.num_hidden_layers = len(set(order)) if shares_keys else len(order)


class Attention(nn.Module):
    """Causal grouped-query attention, with QK-norm before the rotary embedding."""

    def __init__(self, model: dict[str, Any], index: int) -> None:
        """Create the projections and norms of the stored block `index`."""
        super().__init__()
        heads = size_of(model, "num_attention_heads", index)
        kv_heads = size_of(model, "num_key_value_heads", index)
        width, self.head_dim = model["hidden_size"], model["head_dim"]
        name = f"blocks.{index}.attention"
        self.q_proj = make_linear(model, f"{name}.q_proj", width, heads * self.head_dim)
        self.k_proj = make_linear(model, f"{name}.k_proj", width, kv_heads * self.head_dim)
        self.v_proj = make_linear(model, f"{name}.v_proj", width, kv_heads * self.head_dim)
        self.o_proj = make_linear(model, f"{name}.o_proj", heads * self.head_dim, width)
        self.q_norm, self.k_norm = (self.make_norm(model) for _ in range(2))
        self.scale = model.get("attention_multiplier", 1.0) * self.head_dim**-0.5

    def make_norm(self, model: dict[str, Any]) -> nn.Module | None:
        """The norm of queries or keys; None if there is none."""
        if model["qk_norm"] == "none":
            return None
        has_weight = model["qk_norm"] == "rms"
        return nn.RMSNorm(self.head_dim, model["rms_norm_eps"], elementwise_affine=has_weight)

    def forward(
        self,
        x: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor,
        shared: tuple[Tensor, Tensor] | None,
        cache: Any,
        slot: int,
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The output, and the keys and values; `shared` are those to use instead of new ones."""
        query = rotate(self.heads(self.q_proj(x), self.q_norm), rotary)
        if shared is not None:
            key, value = shared
        else:
            key = rotate(self.heads(self.k_proj(x), self.k_norm), rotary)
            value = self.heads(self.v_proj(x), None)
            if cache is not None:
                key, value = cache.update(key, value, slot)
        is_grouped = query.shape[1] != key.shape[1]
        mixed = F.scaled_dot_product_attention(
            query, key, value, mask, scale=self.scale, enable_gqa=is_grouped
        )
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), (key, value)

    def heads(self, x: Tensor, norm: nn.Module | None) -> Tensor:
        """(batch, seq, heads·head_dim) -> (batch, heads, seq, head_dim)."""
        x = x.unflatten(-1, (-1, self.head_dim))
        return (x if norm is None else norm(x)).transpose(1, 2)


class FeedForward(nn.Module):
    """down(silu(gate(x)) · up(x)), or down(relu(up(x)))."""

    def __init__(self, model: dict[str, Any], index: int) -> None:
        """Create the projections of the stored block `index`."""
        super().__init__()
        width, inner = model["hidden_size"], size_of(model, "intermediate_size", index)
        name = f"blocks.{index}.feed_forward"
        is_gated = model["feed_forward"] == "swiglu"
        self.gate_proj = make_linear(model, f"{name}.gate_proj", width, inner) if is_gated else None
        self.up_proj = make_linear(model, f"{name}.up_proj", width, inner)
        self.down_proj = make_linear(model, f"{name}.down_proj", inner, width)

    def forward(self, x: Tensor) -> Tensor:
        """(..., hidden) -> the same shape."""
        up = self.up_proj(x)
        inner = F.relu(up) if self.gate_proj is None else F.silu(self.gate_proj(x)) * up
        return self.down_proj(inner)


class Block(nn.Module):
    """A pre-norm block, which may run at several layers."""

    def __init__(self, model: dict[str, Any], index: int) -> None:
        """Create the stored block `index`."""
        super().__init__()
        width, eps = model["hidden_size"], model["rms_norm_eps"]
        self.attention_norm = nn.RMSNorm(width, eps)
        self.attention = Attention(model, index)
        self.feed_forward_norm = nn.RMSNorm(width, eps)
        self.feed_forward = FeedForward(model, index)
        self.multiplier = model.get("residual_multiplier", 1.0)

    def forward(self, x: Tensor, *arguments: Any) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """The residual stream after the block, and the keys and values; see `Attention`."""
        attended, keys_values = self.attention(self.attention_norm(x), *arguments)
        x = x + self.multiplier * attended
        return x + self.multiplier * self.feed_forward(self.feed_forward_norm(x)), keys_values


class MobileLLMForCausalLM(PreTrainedModel, GenerationMixin):
    """The whole model. The table of the tokens is stored once, also where it is the output head."""

    config_class = MobileLLMConfig
    _supports_sdpa = True
    _no_split_modules = ["Block"]  # noqa: RUF012 - as transformers declares it

    def __init__(self, config: MobileLLMConfig) -> None:
        """Create the modules."""
        super().__init__(config)
        model = config.model
        table = model.get("compressed_layers", {}).get("embedding")
        size = model["vocab_size"], model["hidden_size"]
        self.embedding: Any = nn.Embedding(*size) if table is None else FactorizedLinear(**table)
        self.blocks = nn.ModuleList(Block(model, index) for index in range(model["num_blocks"]))
        self.norm = nn.RMSNorm(model["hidden_size"], model["rms_norm_eps"])
        is_tied = model["tie_word_embeddings"]
        self.head = None if is_tied else make_linear(model, "head", size[1], size[0])
        order = model["layer_order"]
        first = {block: slot for slot, block in enumerate(dict.fromkeys(order))}
        self.shares_keys = model["share_kv"] == "first"
        slots = [first[block] for block in order] if self.shares_keys else range(len(order))
        self.layers = list(zip(order, slots, strict=True))
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int = 0,
        output_hidden_states: bool | None = None,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """Predict the token after each of `input_ids` (batch, seq).

        `attention_mask` is (batch, earlier tokens + seq), 0 for padding. With `labels` (batch, seq)
        the output has the loss of predicting each label from the tokens before it.
        """
        if kwargs.get("output_attentions"):
            raise ValueError("output_attentions is not supported; leave it out")
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        past = 0 if past_key_values is None else past_key_values.get_seq_length()
        mask, counted = mask_and_positions(input_ids, past, attention_mask)
        is_table = isinstance(self.embedding, nn.Embedding)
        x = self.embedding(input_ids) if is_table else self.embedding.rows(input_ids)
        positions = counted if position_ids is None else position_ids
        rotary = make_rotary(positions, self.config.model, x.dtype)
        states, shared = [x], {}
        for block, slot in self.layers:
            used = shared.get(slot) if self.shares_keys else None
            x, shared[slot] = self.blocks[block](x, rotary, mask, used, past_key_values, slot)
            states.append(x)
        hidden = self.norm(x[:, -logits_to_keep:] if logits_to_keep else x)
        logits = self.unembed(hidden * self.config.model.get("output_multiplier", 1.0))
        loss = None
        if labels is not None:
            size = self.config.model["vocab_size"]
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=size, **kwargs)
        return CausalLMOutputWithPast(
            loss=loss,
            logits=logits,
            past_key_values=past_key_values,
            hidden_states=tuple(states) if output_hidden_states else None,
        )

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits: (..., hidden) -> (..., vocab)."""
        if self.head is not None:
            return self.head(hidden)
        if isinstance(self.embedding, nn.Embedding):
            return F.linear(hidden, self.embedding.weight)
        return self.embedding(hidden)

    def get_input_embeddings(self) -> nn.Module:
        """The table of the tokens."""
        return self.embedding

    def get_output_embeddings(self) -> nn.Module | None:
        """The output head; None if it is the table of the tokens."""
        return self.head


def size_of(model: dict[str, Any], name: str, index: int) -> int:
    """A size of a stored block; the blocks have one value in common, or one each."""
    value = model[name]
    return value if isinstance(value, int) else value[index]


def mask_and_positions(
    input_ids: Tensor, past: int, attention_mask: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Mask (batch or 1, 1, seq, keys), True where a query may attend; positions (batch or 1, seq).

    A position is the number of tokens before it that are not padding.
    """
    length = input_ids.shape[1]
    keys = torch.arange(past + length, device=input_ids.device)
    queries = keys[past:].unsqueeze(1)
    mask = (keys <= queries).view(1, 1, length, -1)
    if attention_mask is None:
        return mask, keys[past:].unsqueeze(0)
    allowed = attention_mask.bool()
    # A padded query has no key, and attends to itself: its softmax would be 0 / 0.
    mask = (mask & allowed[:, None, None, :]) | (keys == queries)
    return mask, (allowed.long().cumsum(1) - 1).clamp(min=0)[:, past:]


def make_rotary(
    positions: Tensor, model: dict[str, Any], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Cosine and sine of the angles, each (batch or 1, 1, seq, head_dim)."""
    head_dim, scaling = model["head_dim"], model.get("rope_scaling")
    exponents = torch.arange(0, head_dim, 2, device=positions.device, dtype=torch.float32)
    frequencies = model["rope_theta"] ** (-exponents / head_dim)
    if scaling is not None and scaling["rope_type"] == "linear":
        frequencies = frequencies / scaling["factor"]
    elif scaling is not None:  # llama3: only low frequencies are divided
        low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
        turns = scaling["original_max_position_embeddings"] * frequencies / (2 * torch.pi)
        kept = ((turns - low) / (high - low)).clamp(0, 1)
        frequencies = frequencies * (kept + (1 - kept) / scaling["factor"])
    angles = (positions.float().unsqueeze(-1) * frequencies).unsqueeze(1)
    angles = torch.cat((angles, angles), dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate entries i and i + half of every head (batch, heads, seq, head_dim) together."""
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin
