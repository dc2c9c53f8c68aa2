"""Shapes of a given depth and width."""

import pytest

from mobilellm.search import config_for_shape


def test_heads_and_feed_forward_width_follow_the_width():
    config = config_for_shape(4, 96, vocab_size=100, group_size=3, feed_forward_ratio=2.5)
    assert (config.num_blocks, config.hidden_size, config.intermediate_size) == (4, 96, 240)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (6, 2, 16)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden_size": 40}, "hidden_size=40 must be divisible by head_dim=16; use 32 or 48"),
        ({"hidden_size": 8}, "hidden_size=8 must be divisible by head_dim=16; use 16 or 32"),
        ({"group_size": 3}, "group_size=3 must divide the 4 heads of hidden_size=64; use one of 1"),
        ({"feed_forward_ratio": 2.7}, "feed_forward_ratio=2.7 gives a feed-forward width of 172.8"),
        ({"feed_forward_ratio": 0}, "feed_forward_ratio=0 must be above 0"),
        ({"num_blocks": 0}, "num_blocks=0 must be a whole number of at least 1"),
    ],
)
def test_sizes_that_do_not_divide_are_refused(changes, message):
    sizes = {"num_blocks": 2, "hidden_size": 64, "vocab_size": 100} | changes
    with pytest.raises(ValueError, match=message):
        config_for_shape(**sizes)
