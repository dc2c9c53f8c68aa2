"""Every kind of compressed layer under every way of sharing blocks: one model, many contracts."""

import pytest
import torch

from mobilellm.accounting import count_parameters
from mobilellm.checkpoint import load_model, save_model
from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.cache import KVCache
from mobilellm.models.decoding import MIN_NEW_TOKENS
from mobilellm.models.generation import generate

LOW_RANK = {"left": (40, 1), "right": (1, 24), "num_terms": 3}
KRONECKER = {"left": (20, 12), "right": (2, 2)}
LEFT_FIRST = {"left": (2, 12), "right": (20, 2), "num_terms": 2}
UP, DOWN, QUERY, VALUE = (
    "blocks.0.feed_forward.up_proj", "blocks.1.feed_forward.down_proj",
    "blocks.1.attention.q_proj", "blocks.0.attention.v_proj",
)  # fmt: skip
TABLE = {"parts": [{"left": (31, 12), "right": (2, 2), "num_terms": 2}]}
TURNED_TABLE = TABLE | {"row_permutation": True, "column_permutation": True}

KINDS = {
    "low rank": {UP: {"parts": [LOW_RANK]}},
    "one Kronecker part": {
        UP: {"parts": [KRONECKER]},
        VALUE: {"parts": [{"left": (8, 12), "right": (1, 2)}]},
    },
    "left factors first": {UP: {"parts": [LEFT_FIRST]}},
    "mixed parts": {
        UP: {"parts": [LOW_RANK, KRONECKER, LEFT_FIRST]},
        DOWN: {"parts": [{"left": (24, 20), "right": (1, 2)}]},
    },
    "permutations": {
        UP: {"parts": [LOW_RANK, KRONECKER], "row_permutation": True, "column_permutation": True},
        QUERY: {"parts": [{"left": (6, 6), "right": (4, 4)}], "row_permutation": True},
    },
    "masked": {UP: {"nonzero": 500}, VALUE: {"nonzero": 90}, "embedding": {"nonzero": 1000}},
    "tied embedding": {"embedding": TABLE},
    "tied embedding, permuted": {"embedding": TURNED_TABLE, DOWN: {"nonzero": 7}},
    "untied head": {
        "head": {"parts": [{"left": (62, 1), "right": (1, 24), "num_terms": 5}]},
        "embedding": TABLE,
    },
}
SHARING = {
    "immediate": {"layer_sharing": "immediate"},
    "repeat_all": {"layer_sharing": "repeat_all"},
    "reverse": {"layer_sharing": "reverse"},
    "share_kv": {"layer_sharing": "repeat_all", "share_kv": "first"},
}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=SHARING)
def sharing(request):
    return request.param


@pytest.fixture
def model(kind, sharing):
    return make_model(kind, sharing)


def make_config(kind, sharing):
    return ModelConfig(
        vocab_size=62, hidden_size=24, intermediate_size=40, num_blocks=2, num_attention_heads=6,
        num_key_value_heads=2, max_position_embeddings=64, block_repeats=2,
        tie_word_embeddings=kind != "untied head", compressed_layers=KINDS[kind],
        **SHARING[sharing],
    )  # fmt: skip


def make_model(kind, sharing):
    """Weights large enough for a wrong one to show, permutations and masks that do something."""
    config = make_config(kind, sharing)
    generator = torch.Generator().manual_seed(0)
    model = MobileLLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            drawn = torch.randn(parameter.shape, generator=generator) * 0.4
            parameter.copy_(drawn + (parameter.dim() == 1))
        for name, buffer in model.named_buffers():
            if name.endswith("_order"):
                buffer.copy_(torch.randperm(len(buffer), generator=generator))
            else:
                kept = config.layer_shape(name.removesuffix(".mask")).nonzero
                order = torch.randperm(buffer.numel(), generator=generator)
                buffer.copy_((order < kept).view_as(buffer))
    return model


def make_ids(length=11, rows=2):
    return torch.randint(3, 62, (rows, length), generator=torch.Generator().manual_seed(1))


def weights_of(model):
    """The dense weight (out, in) of every matrix, entry by entry from factors, orders and masks."""
    weights = {}
    for name, size in model.config.matrix_sizes.items():
        layer = model.get_submodule(name)
        if hasattr(layer, "mask"):
            weight = torch.where(layer.mask, layer.weight, torch.zeros(()))
        elif hasattr(layer, "parts"):
            weight = sum(
                torch.kron(left, right)
                for part in layer.parts
                for left, right in zip(part.left, part.right, strict=True)
            )
            for dim, order in enumerate((layer.row_order, layer.column_order)):
                if order is not None and dim == 0:
                    weight = torch.stack([weight[index] for index in order.tolist()])
                elif order is not None:
                    columns = {index: place for place, index in enumerate(order.tolist())}
                    weight = torch.stack([weight[:, columns[j]] for j in range(size[1])], dim=1)
        else:
            weight = layer.weight
        weights[name] = weight.detach().clone()
    return weights


def dense_twin(model):
    values = model.config.to_dict()
    del values["compressed_layers"]
    dense = MobileLLM(ModelConfig.from_dict(values)).eval()
    state = {k: v for k, v in model.state_dict().items() if k in dense.state_dict()}
    state |= {f"{name}.weight": weight for name, weight in weights_of(model).items()}
    dense.load_state_dict(state)
    return dense


@torch.no_grad()
def test_logits_equal_those_of_the_dense_model(model):
    torch.testing.assert_close(
        model(make_ids()).logits, dense_twin(model)(make_ids()).logits, atol=2e-4, rtol=1e-4
    )


@torch.no_grad()
def test_materialize_is_the_weight_that_is_applied(model):
    for name, weight in weights_of(model).items():
        layer = model.get_submodule(name)
        if name not in model.config.layer_shapes:
            continue
        torch.testing.assert_close(layer.materialize(), weight)
        x = torch.randn(3, 5, weight.shape[1])
        if name == "embedding":
            torch.testing.assert_close(layer(make_ids()), weight[make_ids()])
            torch.testing.assert_close(layer.unembed(x), x @ weight.T, atol=1e-4, rtol=1e-4)
        else:
            torch.testing.assert_close(layer(x), x @ weight.T, atol=1e-4, rtol=1e-4)


def test_counts_are_those_of_the_model(model):
    counts = count_parameters(model.config)
    tables = [module for module in (model.embedding, model.head) if module is not None]
    assert counts.stored == sum(p.numel() for p in model.parameters())
    assert counts.embedding == sum(p.numel() for table in tables for p in table.parameters())
    blocks = sum(p.numel() for p in model.blocks.parameters())
    assert counts.executed == counts.stored + blocks
    masked = sum(int((~b).sum()) for n, b in model.named_buffers() if n.endswith(".mask"))
    assert getattr(counts, "nonzero", counts.stored) == counts.stored - masked


def test_the_configuration_and_the_modules_say_the_same(model):
    for name, shape in model.config.layer_shapes.items():
        assert model.get_submodule(name).shape == shape
    assert ModelConfig.from_dict(model.config.to_dict()) == model.config


@torch.no_grad()
def test_a_saved_model_comes_back(model, tmp_path):
    save_model(model, tmp_path)
    loaded = load_model(tmp_path).eval()
    assert loaded.config == model.config
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert torch.equal(loaded(make_ids()).logits, model(make_ids()).logits)


@torch.no_grad()
def test_decoding_with_a_cache_equals_the_whole_sequence(model):
    ids, cache = make_ids(12), KVCache(model.config)
    whole = model(ids).logits
    steps = [model(part, cache).logits for part in (ids[:, :5], *ids[:, 5:].split(1, dim=1))]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_generation_equals_the_naive_loop(model):
    # Long enough for packed decoding, which has to leave these models alone.
    prompts, new = make_ids(4), MIN_NEW_TOKENS
    text = prompts
    for _ in range(new):
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(generate(model, prompts, new, stop_at_eos=False), text)


def test_gradients_reach_every_factor_and_no_masked_weight(model):
    model(make_ids()).logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        layer = model.get_submodule(name.rpartition(".")[0])
        if hasattr(layer, "mask"):
            assert parameter.grad[~layer.mask].eq(0).all(), name
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
        if name.endswith((".left", ".right")):
            assert all(term.abs().max() > 0 for term in parameter.grad), name


def test_one_set_of_parameters_serves_both_ends(model):
    names = [name for name, _ in model.named_parameters()]
    assert len(names) == len(set(names)) == len(list(model.parameters()))
    if not model.config.tie_word_embeddings:
        assert any(name.startswith("head.") for name in names)
        return
    assert model.head is None
    assert not any(name.startswith("head.") for name in names)
    with torch.no_grad():
        before = model(make_ids(1)).hidden, model.unembed(torch.ones(24))
        next(model.embedding.parameters()).mul_(1.5)
        after = model(make_ids(1)).hidden, model.unembed(torch.ones(24))
    assert all(not torch.allclose(a, b) for a, b in zip(before, after, strict=True))


def test_half_precision_products_work(model):
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(make_ids()).logits
        logits.float().square().mean().backward()
    assert logits.dtype == torch.bfloat16
    assert logits.isfinite().all()
    assert all(p.grad is None or p.grad.dtype == torch.float32 for p in model.parameters())


def test_a_step_keeps_what_is_masked_at_zero():
    model = make_model("masked", "immediate")
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(make_ids()).logits.square().sum().backward()
    optimizer.step()
    layer = model.get_submodule(UP)
    assert layer.materialize().count_nonzero() == 500
    assert layer.materialize()[~layer.mask].eq(0).all()
