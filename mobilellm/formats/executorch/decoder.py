"""The model as a module whose every shape is fixed, for compilers of programs for devices.

It is written so that XNNPACK can compute all that lies between two writes to the cache:

- The residual stream has the shape (1, tokens, 1, hidden), because XNNPACK averages over the two
  last of four dimensions only.
- The rotary embedding multiplies the two halves of each head, which are contiguous.
- The query heads of a group are rows of one matrix, so that keys and values are never repeated.
- Keys are cached as columns, so that they need no transposition.
- Every query is compared with the whole cache; a mask excludes what it may not see.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mobilellm.formats.dense_weights import dense_weights
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.cache import cache_slots
from mobilellm.models.config import BlockShape
from mobilellm.models.rotary import rotary_of

Weights = Mapping[str, Tensor]
_EXCLUDED = -1e9  # large enough for a softmax of exactly 0 in float32


class StaticDecoder(nn.Module):
    """Reads one or several tokens after those in its cache, and predicts the next one.

    The cache is part of the state. It may contain anything finite in places that were not written.

    Args:
        model: its weights are copied to float32, dense and with multipliers multiplied into them.
        context: number of tokens that the cache has room for.
    """

    def __init__(self, model: MobileLLM, context: int) -> None:
        """Copy the weights, and create the cache."""
        super().__init__()
        config = model.config
        weights = {name: tensor.float() for name, tensor in dense_weights(model).items()}
        self.table: nn.Module = TokenTable(weights["embedding.weight"])
        self.blocks = nn.ModuleList(
            StaticBlock(_inside(weights, f"blocks.{index}."), config, shape)
            for index, shape in enumerate(config.block_shapes)
        )
        self.norm = StaticNorm(weights["norm.weight"], config.rms_norm_eps)
        self.head = _linear(weights["head.weight"]) if "head.weight" in weights else None
        self._layers = tuple(zip(config.layer_order, cache_slots(config), strict=True))
        half = config.head_dim // 2  # pyright: ignore[reportOptionalOperand]
        cos, sin = rotary_of(config, torch.arange(context))
        self.register_buffer("cos", cos[:, 0, half:].contiguous())
        self.register_buffer("sin", sin[:, 0, half:].contiguous())
        self.context = context
        for slot, block in {slot: block for block, slot in self._layers}.items():
            sizes = config.block_shapes[block].num_key_value_heads, config.head_dim, context
            self.register_buffer(f"keys_{slot}", torch.zeros(sizes))  # pyright: ignore[reportCallIssue, reportArgumentType]
            self.register_buffer(f"values_{slot}", torch.zeros(sizes).transpose(1, 2).contiguous())  # pyright: ignore[reportCallIssue, reportArgumentType]

    def forward(
        self,
        tokens: Int[Tensor, "1 tokens"],
        position: Int[Tensor, " 1"],
        last: Int[Tensor, " 1"] | None = None,
    ) -> Float[Tensor, "1 vocab"]:
        """Predict the token after one of `tokens`, whose keys and values go into the cache.

        Args:
            tokens: token ids (1, tokens).
            position: number of tokens before them; with them at most `context`.
            last: place in `tokens` after which to predict; those after it are padding, and are
                overwritten by the next call. Default: the only token.

        Returns:
            Logits (1, vocab).
        """
        count = tokens.shape[1]
        positions = position + torch.arange(count)
        tables: Any = self.cos, self.sin
        rotary = tuple(F.embedding(positions, one).view(1, count, 1, -1) for one in tables)
        is_later = torch.arange(self.context) > positions.view(count, 1)
        mask = is_later.to(torch.float32).view(1, 1, count, self.context) * _EXCLUDED
        x = self.table(tokens).view(1, count, 1, -1)
        written: set[int] = set()
        for index, slot in self._layers:
            cache = getattr(self, f"keys_{slot}"), getattr(self, f"values_{slot}")
            at = None if slot in written else positions
            x = self.blocks[index](x, rotary, mask, cache, at)
            written.add(slot)
        x = x.view(count, -1)
        if last is not None:
            x = x.index_select(0, last)
        x = self.norm(x.view(1, 1, 1, -1)).view(1, -1)
        return self.table.unembed(x) if self.head is None else self.head(x)  # pyright: ignore[reportCallIssue]


class StaticBlock(nn.Module):
    """One stored block."""

    def __init__(self, weights: Weights, config: ModelConfig, shape: BlockShape) -> None:
        """Copy the weights of a block."""
        super().__init__()
        eps = config.rms_norm_eps
        self.attention_norm = StaticNorm(weights["attention_norm.weight"], eps)
        self.attention = StaticAttention(_inside(weights, "attention."), config, shape)
        self.feed_forward_norm = StaticNorm(weights["feed_forward_norm.weight"], eps)
        gate = weights.get("feed_forward.gate_proj.weight")
        self.gate_proj = None if gate is None else _linear(gate)
        self.up_proj = _linear(weights["feed_forward.up_proj.weight"])
        self.down_proj = _linear(weights["feed_forward.down_proj.weight"])

    def forward(self, x: Tensor, *arguments: Any) -> Tensor:
        """Apply the block to (1, tokens, 1, hidden); further arguments as `StaticAttention`."""
        x = x + self.attention(self.attention_norm(x), *arguments)
        y = self.feed_forward_norm(x)
        inner = self.up_proj(y)
        if self.gate_proj is None:
            return x + self.down_proj(F.relu(inner))
        gate = self.gate_proj(y)
        return x + self.down_proj(gate * torch.sigmoid(gate) * inner)


class StaticAttention(nn.Module):
    """Grouped-query attention to a cache of fixed size."""

    def __init__(self, weights: Weights, config: ModelConfig, shape: BlockShape) -> None:
        """Copy the projections and norms; the scale of the scores becomes part of the queries."""
        super().__init__()
        self.heads, self.kv_heads = shape.num_attention_heads, shape.num_key_value_heads
        self.head_dim: int = config.head_dim  # pyright: ignore[reportAttributeAccessIssue]
        scale, eps = self.head_dim**-0.5, config.rms_norm_eps
        has_norm = "q_norm.weight" in weights
        self.q_norm = StaticNorm(weights["q_norm.weight"] * scale, eps) if has_norm else None
        self.k_norm = StaticNorm(weights["k_norm.weight"], eps) if has_norm else None
        self.q_proj = _linear(weights["q_proj.weight"] * (1 if has_norm else scale))
        self.k_proj = _linear(weights["k_proj.weight"])
        self.v_proj = _linear(weights["v_proj.weight"])
        self.o_proj = _linear(weights["o_proj.weight"])

    def forward(
        self,
        x: Float[Tensor, "1 tokens 1 hidden"],
        rotary: tuple[Tensor, Tensor],
        mask: Float[Tensor, "1 1 tokens context"],
        cache: tuple[Tensor, Tensor],
        positions: Int[Tensor, " tokens"] | None,
    ) -> Float[Tensor, "1 tokens 1 hidden"]:
        """Attend to the cache, to which new keys and values are written first.

        Args:
            x: normalised residual stream.
            rotary: cosine and sine, each (1, tokens, 1, head_dim / 2).
            mask: added to the scores.
            cache: keys (kv_heads, head_dim, context) and values (kv_heads, context, head_dim).
            positions: places of the new keys and values; None: those in the cache are used.
        """
        count, size = x.shape[1], self.head_dim
        keys, values = cache
        if positions is not None:
            key = self._rotated(self.k_proj(x), self.k_norm, self.kv_heads, rotary)
            value = self.v_proj(x).view(1, count, self.kv_heads, size)
            keys.index_copy_(2, positions, key.permute(0, 2, 3, 1).view(-1, size, count))
            values.index_copy_(1, positions, value.permute(0, 2, 1, 3).reshape(-1, count, size))
        query = self._rotated(self.q_proj(x), self.q_norm, self.heads, rotary)
        # The heads of a group are rows of one matrix: (kv_heads, group · tokens, head_dim).
        query = query.permute(0, 2, 1, 3).reshape(self.kv_heads, -1, size)
        scores = torch.bmm(query, keys).view(self.kv_heads, -1, count, mask.shape[-1]) + mask
        weights = torch.softmax(scores, dim=-1).view(self.kv_heads, -1, mask.shape[-1])
        mixed = torch.bmm(weights, values).view(1, self.heads, count, size)
        return self.o_proj(mixed.permute(0, 2, 1, 3).reshape(1, count, 1, -1))

    def _rotated(
        self, x: Tensor, norm: "StaticNorm | None", heads: int, rotary: tuple[Tensor, Tensor]
    ) -> Float[Tensor, "1 tokens heads head_dim"]:
        """Split into heads, normalise and rotate them."""
        count, half = x.shape[1], self.head_dim // 2
        if norm is not None:
            x = norm(x.view(1, count * heads, 1, self.head_dim))
        x = x.view(1, count, heads, self.head_dim)
        first, second = x[..., :half], x[..., half:]
        cos, sin = rotary
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


class StaticNorm(nn.Module):
    """RMS norm over the last dimension of (1, n, 1, size)."""

    def __init__(self, weight: Tensor, eps: float) -> None:
        """Copy the weight (size,)."""
        super().__init__()
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)
        self.eps = eps

    def forward(self, x: Float[Tensor, "1 n 1 size"]) -> Float[Tensor, "1 n 1 size"]:
        """Normalise."""
        return x * torch.rsqrt((x * x).mean((2, 3), keepdim=True) + self.eps) * self.weight


class TokenTable(nn.Module):
    """The token embedding, whose one parameter also serves as a tied output head."""

    def __init__(self, weight: Float[Tensor, "vocab hidden"]) -> None:
        """Copy the table."""
        super().__init__()
        self.weight = nn.Parameter(weight.clone(), requires_grad=False)

    def forward(self, tokens: Int[Tensor, "1 tokens"]) -> Float[Tensor, "1 tokens hidden"]:
        """Look up rows."""
        return F.embedding(tokens, self.weight)

    def unembed(self, x: Float[Tensor, "1 hidden"]) -> Float[Tensor, "1 vocab"]:
        """Multiply by every row."""
        return F.linear(x, self.weight)


def _linear(weight: Float[Tensor, "out in"]) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = nn.Parameter(weight.clone(), requires_grad=False)
    return layer


def _inside(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): t for k, t in weights.items() if k.startswith(prefix)}
