"""Fast decoding of one token at a time on a CPU, with packed weights.

For small batches, the speed of matrix products is limited by memory bandwidth. The matrix-vector
products of the usual libraries reach about a quarter of the bandwidth. A weighted sum of the rows
of the transposed matrix, as computed by torch's embedding bag, reaches nearly all of it. The
weights are therefore copied and transposed once, and divided into tiles of columns that are
distributed over the threads. Projections of the same input are concatenated. The remaining cost is
the overhead of many small calls, so this module makes as few calls as possible. Quantized weights
are packed as dense ones, since computing them for every token would take longer than reading them.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mobilellm.layers import materialize
from mobilellm.layers.quantized import QuantizedEmbedding, QuantizedLinear
from mobilellm.layers.token_embedding import TokenEmbedding
from mobilellm.models.attention import Attention, KeysValues
from mobilellm.models.block import TransformerBlock
from mobilellm.models.cache import KVCache, cache_slots
from mobilellm.models.feed_forward import ReLUFeedForward, SwiGLU
from mobilellm.models.mobilellm import MobileLLM
from mobilellm.models.norm import RMSNorm, WeightlessRMSNorm
from mobilellm.models.rotary import Rotary, rotary_of

# For larger batches, ordinary matrix products are faster, because they reuse the weights they read.
MAX_BATCH = 8
# For fewer tokens, packing takes more time than it saves.
MIN_NEW_TOKENS = 32
# The sums of a tile should fit in the L1 cache.
_TILE_WIDTH = 512
_ALIGNMENT = 16
_USUAL_MODULES = {
    MobileLLM, TransformerBlock, Attention, SwiGLU, ReLUFeedForward, RMSNorm, WeightlessRMSNorm,
    TokenEmbedding, nn.Linear, nn.ModuleList, QuantizedEmbedding, QuantizedLinear,
}  # fmt: skip


def can_pack(model: MobileLLM, batch_size: int) -> bool:
    """Whether `PackedDecoder` supports a model and is faster than its forward pass.

    It requires an x86 CPU, for which torch's embedding bag has vectorised kernels, float32 weights
    and a small batch. All modules must be standard modules without hooks, because the decoder does
    not call their `forward`; matrices are dense, or quantized without rounding their inputs.
    """
    if not all(_is_usual(module) for module in model.modules()):
        return False
    weight: Any = model.norm.weight
    if not weight.is_cpu or weight.dtype != torch.float32 or batch_size > MAX_BATCH:
        return False
    return torch.backends.cpu.get_cpu_capability().startswith("AVX")


def _is_usual(module: nn.Module) -> bool:
    hooked = bool(module._forward_hooks or module._forward_pre_hooks)
    biased = getattr(module, "bias", None) is not None
    is_exact = not (
        isinstance(module, QuantizedLinear) and module.number_format.activation_bits is not None
    )
    return type(module) in _USUAL_MODULES and not hooked and not biased and is_exact


class PackedDecoder:
    """Decoder with a packed copy of the weights; later changes of the model have no effect."""

    def __init__(self, model: MobileLLM, batch_size: int) -> None:
        """Copy and pack the weights of `model`, for which `can_pack` must return True."""
        config = model.config
        self._config = config
        self._embedding = materialize(model.embedding)
        self._blocks = [
            _PackedBlock(block, batch_size, config.share_kv == "first") for block in model.blocks
        ]
        table = self._embedding if model.head is None else materialize(model.head)
        self._head = _PackedMatrix([table], batch_size)
        self._norm = _PackedNorm(model.norm, config.output_multiplier)
        self._layers = tuple(zip(config.layer_order, cache_slots(config), strict=True))

    def step(
        self,
        tokens: Int[Tensor, " batch"],
        cache: KVCache,
        attention_mask: Bool[Tensor, "batch keys"] | None = None,
    ) -> Float[Tensor, "batch vocab"]:
        """Process one token per row of the batch and return the logits of the next tokens.

        Args:
            tokens: token ids (batch,).
            cache: keys and values of earlier tokens. Those of `tokens` are appended.
            attention_mask: bool (batch, keys or more), False for left padding, as in
                `MobileLLM.forward`.
        """
        config = self._config
        mask, positions = None, torch.tensor([[cache.length]])
        if attention_mask is not None:
            attention_mask = attention_mask[:, : cache.length + 1]
            mask = attention_mask[:, None, None, :]
            positions = attention_mask.sum(dim=1, keepdim=True) - 1
        rotary = rotary_of(config, positions)
        x = F.embedding(tokens, self._embedding)
        shared: dict[int, KeysValues] = {}
        for index, slot in self._layers:
            block = self._blocks[index]
            query, kept = block.project(x, rotary, shared.get(slot), cache, slot)
            if config.share_kv == "first":
                shared[slot] = kept
            mixed = F.scaled_dot_product_attention(
                query, *kept, mask, enable_gqa=True, scale=block.scale
            )
            x = block.output(mixed.flatten(1)).add_(x)
            x = block.feed_forward(x).add_(x)
        cache.advance(1)
        return self._head(self._norm(x))


class _PackedBlock:
    """The packed weights of one stored block.

    With `split`, the query projection is also packed alone, for applications of the block that
    reuse keys and values.
    """

    def __init__(self, block: nn.Module, batch_size: int, split: bool) -> None:
        attention: Any = block.attention
        feed: Any = block.feed_forward
        self._attention = attention
        self._num_queries = attention.q_proj.out_features // attention.head_dim
        self._num_keys = attention.k_proj.out_features // attention.head_dim
        query = [materialize(attention.q_proj)]
        keys_values = [materialize(attention.k_proj), materialize(attention.v_proj)]
        self._query = _PackedMatrix(query, batch_size) if split else None
        self._all = _PackedMatrix([*query, *keys_values], batch_size)
        self.scale = attention.scale
        self.output = _PackedMatrix([_scaled(attention.o_proj, block)], batch_size)
        self._gated = isinstance(feed, SwiGLU)
        gate = [materialize(feed.gate_proj)] if self._gated else []
        self._inner = _PackedMatrix([*gate, materialize(feed.up_proj)], batch_size)
        self._attention_norm = _PackedNorm(block.attention_norm)
        self._feed_forward_norm = _PackedNorm(block.feed_forward_norm)
        self._down = _PackedMatrix([_scaled(feed.down_proj, block)], batch_size)

    def project(
        self,
        x: Float[Tensor, "batch hidden"],
        rotary: Rotary,
        kept: KeysValues | None,
        cache: KVCache,
        slot: int,
    ) -> tuple[Float[Tensor, "batch heads 1 head_dim"], KeysValues]:
        """Compute the queries and, unless `kept` has them, the keys and values to attend to."""
        packed = self._all if kept is None else self._query
        heads = packed(self._attention_norm(x)).view(x.shape[0], 1, -1, self._attention.head_dim)  # pyright: ignore[reportOptionalCall]
        num_rotated = self._num_queries + (self._num_keys if kept is None else 0)
        value = heads[:, :, num_rotated:]
        heads = _rotate(self._normalise_heads(heads[:, :, :num_rotated]), rotary)
        query = heads[:, :, : self._num_queries].transpose(1, 2)
        if kept is None:
            key = heads[:, :, self._num_queries :]
            kept = cache.append(slot, key.transpose(1, 2), value.transpose(1, 2))
        return query, kept

    def feed_forward(self, x: Float[Tensor, "batch hidden"]) -> Float[Tensor, "batch hidden"]:
        """Apply the norm and the feed-forward layer, without the residual addition."""
        inner = self._inner(self._feed_forward_norm(x))
        if not self._gated:
            return self._down(inner.relu_())
        gate, up = inner.chunk(2, dim=-1)
        return self._down(F.silu(gate).mul_(up))

    def _normalise_heads(
        self, heads: Float[Tensor, "batch 1 heads head_dim"]
    ) -> Float[Tensor, "batch 1 heads head_dim"]:
        norm, key_norm = self._attention.q_norm, self._attention.k_norm
        if norm is None or key_norm is None:
            return heads
        if not isinstance(norm, RMSNorm):
            return norm(heads)
        parts = heads.split([self._num_queries, heads.shape[2] - self._num_queries], dim=2)
        return torch.cat((norm(parts[0]), key_norm(parts[1])), dim=2)


def _scaled(projection: Any, block: nn.Module) -> Tensor:
    """The weight of a projection that writes to the residual stream, with its multiplier."""
    multiplier: Any = block.residual_multiplier
    weight = materialize(projection)
    return weight if multiplier == 1 else weight * multiplier


class _PackedMatrix:
    """Concatenated weights (out, in), stored as tiles of columns of the transposed matrix.

    Each pair of a tile and a row of the batch is one bag of the embedding bag: the sum of the rows
    of the tile, one per input, weighted by the entries of the input.
    """

    def __init__(self, weights: list[Float[Tensor, "_ inputs"]], batch_size: int) -> None:
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self._size, num_inputs = weight.shape
        self._num_tiles, self._width = _tile(self._size, torch.get_num_threads())
        tiles = weight.new_empty(self._num_tiles, num_inputs, self._width)
        tiles[self._size // self._width :] = 0  # padding of the last tiles
        for tile, rows in enumerate(weight.split(self._width)):
            tiles[tile, :, : rows.shape[0]] = rows.t()
        self._tiles = tiles.flatten(0, 1)
        first = torch.arange(self._num_tiles, dtype=torch.int32).view(-1, 1, 1) * num_inputs
        rows = first + torch.arange(num_inputs, dtype=torch.int32)
        self._bags = (self._num_tiles, batch_size, num_inputs)
        self._rows = rows.expand(self._bags).flatten()
        self._offsets = torch.arange(0, math.prod(self._bags), num_inputs, dtype=torch.int32)

    def __call__(self, x: Float[Tensor, "batch inputs"]) -> Float[Tensor, "batch outputs"]:
        """Multiply by the weights: (batch, in) -> (batch, out)."""
        weights = x.expand(self._bags).flatten()
        # Mode 0 is a sum; the other results are only needed for a backward pass.
        sums, *_ = torch.embedding_bag(
            self._tiles, self._rows, self._offsets, False, 0, False, weights
        )
        if self._bags[1] > 1:
            sums = sums.view(self._num_tiles, -1, self._width).transpose(0, 1)
        sums = sums.reshape(self._bags[1], -1)
        return sums if sums.shape[1] == self._size else sums[:, : self._size]


class _PackedNorm:
    """RMSNorm in four calls: 1 / sqrt(|x|² / n + eps) = sqrt(n) / hypot(|x|, sqrt(n × eps))."""

    def __init__(self, norm: Any, multiplier: float = 1.0) -> None:
        self._weight = norm.weight * (multiplier * norm.weight.shape[0] ** 0.5)
        self._floor = norm.weight.new_tensor((norm.weight.shape[0] * norm.eps) ** 0.5)

    def __call__(self, x: Float[Tensor, "batch size"]) -> Float[Tensor, "batch size"]:
        length = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
        return (x / length.hypot_(self._floor)).mul_(self._weight)


def _tile(size: int, num_threads: int) -> tuple[int, int]:
    """Number of tiles, a multiple of the number of threads, and their width, with least padding."""
    fewest = math.ceil(size / _TILE_WIDTH / num_threads)
    choices = [factor * num_threads for factor in range(fewest, 2 * fewest + 1)]
    widths = [math.ceil(size / tiles / _ALIGNMENT) * _ALIGNMENT for tiles in choices]
    return min(zip(choices, widths, strict=True), key=lambda choice: choice[0] * choice[1])


def _rotate(
    x: Float[Tensor, "batch 1 heads head_dim"], rotary: Rotary
) -> Float[Tensor, "batch 1 heads head_dim"]:
    cos, sin = rotary
    first, second = x.chunk(2, dim=-1)
    return torch.cat((second, first), dim=-1).mul_(sin).addcmul_(x, cos)
