"""The coupled layers of a model: reordering their units leaves its function."""

import pytest
import torch

from mobilellm.compression.algorithms.coupling import Coupling, permute_units_
from mobilellm.compression.couplings import couplings
from mobilellm.models import MobileLLM, ModelConfig


def make_model(**changes) -> MobileLLM:
    sizes = dict(
        vocab_size=61, hidden_size=24, intermediate_size=40, num_blocks=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    model = MobileLLM(ModelConfig(**(sizes | changes)))
    with torch.no_grad():  # large enough for every part to matter
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3 + (parameter.dim() == 1))
    return model


def draw_order(coupling: Coupling) -> torch.Tensor:
    """Another order of the units, each in its group."""
    size = coupling.group_size
    turned = [(torch.randperm(size) + group * size) for group in range(coupling.groups)]
    return torch.cat([order.roll(1) if order.equal(order.sort().values) else order
                      for order in turned])  # fmt: skip


def logits(model: MobileLLM) -> torch.Tensor:
    ids = torch.randint(0, 61, (2, 13), generator=torch.Generator().manual_seed(1))
    return model(ids).logits.detach()


VARIANTS = [
    {"qk_norm": "rms"}, {"qk_norm": "l2"}, {"num_key_value_heads": 6}, {"num_key_value_heads": 1},
    {"num_key_value_heads": 3, "qk_norm": "rms"}, {"feed_forward": "relu"}, {"share_kv": "first"},
    {"intermediate_size": (40, 24), "num_attention_heads": (6, 4), "head_dim": 4},
    {"tie_word_embeddings": False},
]  # fmt: skip


@pytest.mark.parametrize("scheme", ["immediate", "repeat_all", "reverse"])
@pytest.mark.parametrize("changes", VARIANTS, ids=str)
def test_reordered_units_leave_the_logits(scheme, changes):
    model = make_model(layer_sharing=scheme, block_repeats=2, **changes)
    wanted, before = logits(model), {k: v.clone() for k, v in model.state_dict().items()}
    for coupling in couplings(model.config):
        permute_units_(model, coupling, draw_order(coupling))
    torch.testing.assert_close(logits(model), wanted, atol=1e-5, rtol=1e-5)
    moved = {k for k, v in model.state_dict().items() if not v.equal(before[k])}
    parts = {"gate_proj", "up_proj", "down_proj", "q_proj", "o_proj"}
    if model.config.feed_forward == "relu":
        parts -= {"gate_proj"}
    if model.config.num_key_value_heads == 6:  # groups of one: nothing may move
        parts -= {"q_proj", "o_proj"}
    assert {name.split(".")[-2] for name in moved} == parts


def test_an_order_within_groups_is_needed_for_heads():
    """Moved between the groups of key-value heads, the function changes: the check has a reason."""
    model = make_model()
    wanted = logits(model)
    heads = couplings(model.config)[1]
    free = Coupling(name="free", rows=heads.rows, columns=heads.columns, num_units=6, unit=4)
    permute_units_(model, free, torch.tensor([5, 1, 2, 3, 4, 0]))
    assert (logits(model) - wanted).abs().max() > 1e-2


def test_couplings_of_every_stored_block():
    config = ModelConfig(
        vocab_size=61, hidden_size=24, intermediate_size=[40, 24], num_blocks=2, block_repeats=2,
        num_attention_heads=[6, 4], num_key_value_heads=2, head_dim=8,
    )  # fmt: skip
    found = couplings(config)
    assert [c.name for c in found] == [
        "blocks.0.hidden", "blocks.0.heads", "blocks.1.hidden", "blocks.1.heads"
    ]  # fmt: skip
    assert [c.num_units for c in found] == [40, 6, 24, 4]
    assert [(c.unit, c.groups) for c in found[2:]] == [(1, 1), (8, 2)]
    assert found[0].rows == ("blocks.0.feed_forward.gate_proj", "blocks.0.feed_forward.up_proj")
    assert found[0].columns == ("blocks.0.feed_forward.down_proj",)
    for coupling in found:
        for names, dim in ((coupling.rows, 0), (coupling.columns, 1)):
            assert all(config.matrix_sizes[n][dim] == coupling.features for n in names)
