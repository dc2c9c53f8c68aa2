"""Causal grouped-query attention with rotary position embeddings."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from mobilellm.models.attention_mask import dense_mask
from mobilellm.models.cache import KVCache
from mobilellm.models.flexible_attention import flexible_attention
from mobilellm.models.kernels import LEAST_FLEXIBLE_HEAD_DIM
from mobilellm.models.norm import RMSNorm, WeightlessRMSNorm
from mobilellm.models.rotary import Rotary, apply_rotary

KeysValues = tuple[
    Float[Tensor, "batch kv_heads keys head_dim"], Float[Tensor, "batch kv_heads keys head_dim"]
]


class Attention(nn.Module):
    """Grouped-query attention: groups of query heads share one key-value head.

    QK-norm is applied before the rotary embedding, as in Qwen3. For a norm without a weight the
    order makes no difference, because a rotation does not change the length of a vector.

    Source: Ainslie et al. 2023, GQA, arXiv:2305.13245.
    """

    def __init__(
        self,
        hidden_size: int,
        num_attention_heads: int,
        num_key_value_heads: int,
        head_dim: int,
        *,
        qk_norm: str = "none",
        eps: float = 1e-5,
        multiplier: float = 1.0,
    ) -> None:
        """Create the four projections, without bias, and the norms of queries and keys.

        The scores are multiplied by `multiplier` / sqrt(head_dim).
        """
        super().__init__()
        self.multiplier = multiplier
        self.head_dim = head_dim
        self.group_size = num_attention_heads // num_key_value_heads
        self.q_proj = nn.Linear(hidden_size, num_attention_heads * head_dim, bias=False)
        self.k_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(hidden_size, num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(num_attention_heads * head_dim, hidden_size, bias=False)
        self.q_norm = _make_head_norm(qk_norm, head_dim, eps)
        self.k_norm = _make_head_norm(qk_norm, head_dim, eps)

    def forward(
        self,
        x: Float[Tensor, "batch seq hidden"],
        rotary: Rotary,
        mask: Bool[Tensor, "#batch 1 seq keys"] | BlockMask | None = None,
        *,
        keys_values: KeysValues | None = None,
        cache: KVCache | None = None,
        slot: int = 0,
        need_weights: bool = False,
    ) -> tuple[
        Float[Tensor, "batch seq hidden"],
        KeysValues,
        Float[Tensor, "batch heads seq keys"] | None,
    ]:
        """Compute the attention output.

        Args:
            x: normalised input (batch, seq, hidden).
            rotary: output of `make_rotary` for the positions of `x`.
            mask: bool (batch or 1, 1, queries, keys), True if the query may attend to the key, or
                a `BlockMask` of the same meaning. A mask must include causality. None: causal
                attention, in which the queries are at the positions of the last keys.
            keys_values: keys and values of an earlier application to use instead of new ones.
            cache: keys and values of earlier tokens. The new ones are appended to `slot`.
            slot: index of this application in the cache.
            need_weights: whether to return the attention weights, which is slower because the
                whole matrix of weights is computed.

        Returns:
            Output (batch, seq, hidden); keys and values (batch, kv_heads, keys, head_dim); weights
            (batch, heads, queries, keys) or None.
        """
        query = apply_rotary(self._heads(self.q_proj(x), self.q_norm), rotary).transpose(1, 2)
        if keys_values is None:
            key = apply_rotary(self._heads(self.k_proj(x), self.k_norm), rotary).transpose(1, 2)
            value = self._heads(self.v_proj(x)).transpose(1, 2)
            keys_values = (key, value) if cache is None else cache.append(slot, key, value)
        key, value = keys_values
        weights = None
        if need_weights:
            allowed = dense_mask(mask)
            weights = _attention_weights(query, self._for_each_head(key), allowed, self.multiplier)
            mixed = weights.to(value.dtype) @ self._for_each_head(value)
        else:
            mixed = self._attend(query, key, value, mask)
        return self.o_proj(mixed.transpose(1, 2).flatten(2)), keys_values, weights

    def _attend(
        self,
        query: Float[Tensor, "batch heads seq head_dim"],
        key: Float[Tensor, "batch kv_heads keys head_dim"],
        value: Float[Tensor, "batch kv_heads keys head_dim"],
        mask: Bool[Tensor, "#batch 1 seq keys"] | BlockMask | None,
    ) -> Float[Tensor, "batch heads seq head_dim"]:
        if isinstance(mask, BlockMask):
            if self.head_dim >= LEAST_FLEXIBLE_HEAD_DIM:
                return flexible_attention(query, key, value, mask, scale=self.scale)
            mask = dense_mask(mask)
        is_causal = mask is None and query.shape[-2] > 1
        # With a mask, no fast CUDA kernel supports grouped heads, so keys and values are repeated.
        in_place = self.group_size > 1 and (mask is None or query.is_cpu)
        if not in_place:
            key, value = self._for_each_head(key), self._for_each_head(value)
        return F.scaled_dot_product_attention(
            query, key, value, mask, is_causal=is_causal, enable_gqa=in_place, scale=self.scale
        )

    @property
    def scale(self) -> float | None:
        """Factor of the scores, as torch's attention takes it; None: 1 / sqrt(head_dim)."""
        return None if self.multiplier == 1 else self.multiplier * self.head_dim**-0.5

    def _for_each_head(
        self, x: Float[Tensor, "batch kv_heads *rest"]
    ) -> Float[Tensor, "batch heads *rest"]:
        """Repeat keys or values for every query head of their group."""
        return x if self.group_size == 1 else x.repeat_interleave(self.group_size, dim=1)

    def _heads(
        self, x: Float[Tensor, "batch seq width"], norm: nn.Module | None = None
    ) -> Float[Tensor, "batch seq heads head_dim"]:
        """Split (batch, seq, heads × head_dim) into heads, and apply `norm` if there is one."""
        x = x.unflatten(-1, (-1, self.head_dim))
        return x if norm is None else norm(x)


def _make_head_norm(qk_norm: str, head_dim: int, eps: float) -> nn.Module | None:
    if qk_norm == "rms":
        return RMSNorm(head_dim, eps)
    return WeightlessRMSNorm(eps) if qk_norm == "l2" else None


def _attention_weights(
    query: Float[Tensor, "batch heads seq head_dim"],
    key: Float[Tensor, "batch heads keys head_dim"],
    mask: Bool[Tensor, "#batch 1 seq keys"] | None,
    multiplier: float,
) -> Float[Tensor, "batch heads seq keys"]:
    """softmax(multiplier × q kᵀ / sqrt(head_dim)) in float32; `mask` as `Attention.forward`."""
    scores = (query @ key.transpose(-2, -1)).float() * (multiplier * query.shape[-1] ** -0.5)
    queries, keys = scores.shape[-2:]
    if mask is None:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=key.device).tril(keys - queries)
    return scores.masked_fill(mask.logical_not(), float("-inf")).softmax(dim=-1)
