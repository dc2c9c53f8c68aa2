"""A model of a given depth and width, whose other sizes keep their proportion to the width.

Settings transfer between shapes of equal proportions: one head size, as many query heads per
key-value head, and one ratio of feed-forward width to width.
"""

from typing import Any

from mobilellm.models import ModelConfig
from mobilellm.models.config import RANGES, WIDTH
from mobilellm.ranges import Range, checked

RATIO = Range(above=0, cap=1000, remedy="8/3 to 4 are common")


@checked(
    num_blocks=RANGES["num_blocks"], hidden_size=WIDTH, head_dim=WIDTH, group_size=WIDTH,
    feed_forward_ratio=RATIO,
)  # fmt: skip
def config_for_shape(
    num_blocks: int,
    hidden_size: int,
    *,
    head_dim: int = 16,
    group_size: int = 1,
    feed_forward_ratio: float = 3.0,
    **options: Any,
) -> ModelConfig:
    """The configuration of a depth and a width.

    Args:
        num_blocks: blocks stored.
        hidden_size: width of the residual stream.
        head_dim: width of one head; there are hidden_size / head_dim query heads.
        group_size: query heads per key-value head.
        feed_forward_ratio: feed-forward width as a multiple of hidden_size, which must be whole.
        options: further fields of `ModelConfig`; vocab_size is required.

    Raises:
        ValueError: sizes that do not divide, or what `ModelConfig` refuses.
    """
    if hidden_size % head_dim:
        below = max(1, hidden_size // head_dim) * head_dim
        raise ValueError(
            f"hidden_size={hidden_size} must be divisible by head_dim={head_dim}; use {below} or "
            f"{below + head_dim}"
        )
    heads = hidden_size // head_dim
    if heads % group_size:
        divisors = ", ".join(str(n) for n in range(1, heads + 1) if heads % n == 0)
        raise ValueError(
            f"group_size={group_size} must divide the {heads} heads of hidden_size={hidden_size}; "
            f"use one of {divisors}"
        )
    inner = feed_forward_ratio * hidden_size
    if inner != round(inner):
        raise ValueError(
            f"feed_forward_ratio={feed_forward_ratio:g} gives a feed-forward width of {inner:g} at "
            f"hidden_size={hidden_size}; use a ratio that makes it whole"
        )
    return ModelConfig(
        hidden_size=hidden_size,
        intermediate_size=round(inner),
        num_blocks=num_blocks,
        num_attention_heads=heads,
        num_key_value_heads=heads // group_size,
        head_dim=head_dim,
        **options,
    )
