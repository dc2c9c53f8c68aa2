import pytest
import torch

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.decoding import can_pack
from mobilellm.models.initialization import initialize_

UP, DOWN = "blocks.0.feed_forward.up_proj", "blocks.1.feed_forward.down_proj"
MIXED = {
    "parts": [
        {"left": (128, 1), "right": (1, 96), "num_terms": 24},
        {"left": (64, 48), "right": (2, 2), "num_terms": 3},
        {"left": (16, 16), "right": (8, 6)},
    ],
    "row_permutation": True,
}
DOWN_SHAPE = {"parts": [{"left": (96, 64), "right": (1, 2)}]}
TABLE = {"parts": [{"left": (500, 48), "right": (1, 2), "num_terms": 2}]}
SHARING = [
    {"layer_sharing": "immediate"},
    {"layer_sharing": "repeat_all"},
    {"layer_sharing": "reverse"},
    {"layer_sharing": "repeat_all", "share_kv": "first"},
]


def make_model(**changes):
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=500, hidden_size=96, intermediate_size=128, num_blocks=2,
        num_attention_heads=6, block_repeats=2,
        compressed_layers={UP: MIXED, DOWN: DOWN_SHAPE, "embedding": TABLE}, **changes,
    )  # fmt: skip
    return MobileLLM(config)


def deviation(model, name, draws=12, **options):
    """Of the product's entries over many draws: those of one draw share factors."""
    squares = []
    for seed in range(draws):
        initialize_(model, seed=seed, **options)
        squares.append(model.get_submodule(name).materialize().square().mean())
    return torch.stack(squares).mean().sqrt().item()


@pytest.mark.parametrize("sharing", SHARING)
@pytest.mark.parametrize("name", [UP, "embedding"])
def test_the_product_starts_at_the_deviation_asked_for(name, sharing):
    model = make_model(**sharing)
    assert deviation(model, name) == pytest.approx(0.02, rel=0.25)
    assert deviation(model, name, std=0.05) == pytest.approx(0.05, rel=0.25)


def test_each_part_has_its_share_of_the_variance():
    model = make_model()
    parts = model.get_submodule(UP).parts
    squares = torch.zeros(3)
    for seed in range(200):
        initialize_(model, seed=seed)
        squares += torch.stack([part.materialize().square().mean() for part in parts]).detach()
    shares = squares / 200 / 0.02**2
    assert shares == pytest.approx([1 / 3] * 3, rel=0.2)


def test_what_writes_to_the_stream_is_scaled_down_with_depth():
    model = make_model()
    plain = deviation(model, DOWN, draws=60)
    scaled = deviation(model, DOWN, draws=60, residual_scaling=True)
    assert scaled / plain == pytest.approx((2 * 4) ** -0.5, rel=1e-4)
    assert deviation(model, UP, residual_scaling=True) == pytest.approx(deviation(model, UP))


def test_a_model_from_scratch_has_plain_permutations_and_no_masked_weight():
    model = make_model()
    layer = model.get_submodule(UP)
    assert torch.equal(layer.row_order, torch.arange(128, dtype=torch.int32))
    masked = MobileLLM(
        ModelConfig(
            vocab_size=50, hidden_size=16, intermediate_size=24, num_blocks=1,
            num_attention_heads=2, compressed_layers={UP: {"nonzero": 3}},
        )
    )  # fmt: skip
    assert masked.get_submodule(UP).mask.all()


def test_a_factorised_model_from_scratch_learns():
    model = make_model(layer_sharing="repeat_all")
    tokens = torch.randint(500, (4, 17))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(30):
        logits = model(tokens[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(500.0).log().item(), abs=0.3)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(
    "layers",
    [{"embedding": TABLE}, {UP: MIXED}, {UP: {"nonzero": 4}}, {"embedding": {"nonzero": 9}}],
)
def test_compressed_models_are_not_packed_for_decoding(layers):
    model = make_model()
    config = ModelConfig.from_dict(model.config.to_dict() | {"compressed_layers": layers})
    assert not can_pack(MobileLLM(config), 1)
