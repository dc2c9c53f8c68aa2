"""Base shapes that do not exist, or from which a model cannot be scaled."""

import pytest

from mobilellm.models import ModelConfig
from mobilellm.optim import completep, mup


def make_config(**changes):
    sizes = {
        "vocab_size": 61, "hidden_size": 64, "intermediate_size": 192, "num_blocks": 4,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    }  # fmt: skip
    return ModelConfig(**(sizes | changes))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mup(base_width=0), "base_width=0 must be a whole number of at least 1"),
        (
            lambda: completep(base_width=64, base_depth=0),
            "base_depth=0 must be a whole number of at least 1",
        ),
        (
            lambda: completep(base_width=64, base_depth=2, depth_exponent=0.2),
            r"depth_exponent=0.2 must be between 0.5 and 1; 1 is CompleteP",
        ),
        (
            lambda: mup(base_width=64, base_num_key_value_heads=2),
            "base_num_key_value_heads=2 needs base_num_attention_heads; give both",
        ),
        (
            lambda: mup(
                base_width=64, base_num_attention_heads=4, base_num_key_value_heads=3
            ),
            "base_num_attention_heads=4 must be divisible by base_num_key_value_heads=3",
        ),
    ],
)  # fmt: skip
def test_a_base_shape_that_does_not_exist_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("rules", "changes", "message"),
    [
        (
            mup(base_width=40), {},
            "base_width=40 gives 2.5 attention heads with head_dim=16, in proportion .* use a base",
        ),
        (
            mup(base_width=64, base_head_dim=48), {},
            "base_width=64 gives 1.33333 attention heads with base_head_dim=48",
        ),
        (
            completep(base_width=64, base_depth=3), {"block_repeats": 2},
            r"base_depth=3 counts applications, and blocks that run 2 times \(layer_sharing="
            r"immediate\) cannot be applied so often; use 2 or 4",
        ),
        (
            completep(base_width=64, base_depth=2), {"residual_multiplier": 0.3},
            "model.residual_multiplier=0.3 contradicts the parametrisation, which sets it to 0.5",
        ),
    ],
    ids=["heads", "head_dim", "depth", "multiplier"],
)  # fmt: skip
def test_a_model_that_cannot_be_scaled_from_the_base_shape_is_refused(rules, changes, message):
    with pytest.raises(ValueError, match=message):
        rules.configured(make_config(**changes))
