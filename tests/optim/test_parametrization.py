"""Parametrisations against the published tables, and against what updates do to the outputs."""

import math

import pytest
import torch
import torch.nn.functional as F

from mobilellm.models import MobileLLM, ModelConfig
from mobilellm.models.initialization import initialize_
from mobilellm.optim import adamw, completep, muon, mup

RATE, DECAY, EPS = 8e-3, 0.1, 1e-8


def make_config(width=64, depth=4, **changes):
    """A shape with heads of 16 and a feed-forward width of three times the width."""
    sizes = {
        "vocab_size": 61, "hidden_size": width, "intermediate_size": 3 * width,
        "num_blocks": depth, "num_attention_heads": width // 16,
        "num_key_value_heads": max(1, width // 32), "head_dim": 16,
    }  # fmt: skip
    return ModelConfig(**(sizes | changes))


def groups_by_name(model, optimizer):
    """The optimizer's group of each parameter."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}


@pytest.mark.parametrize("alpha", [1.0, 0.5])
@pytest.mark.parametrize("tied", [True, False])
def test_adamw_has_the_published_settings(alpha, tied):
    """Dey et al. 2025, table 1 and equation 40, with m_N = 4 and m_L = 8."""
    m_width, m_depth = 4, 8
    rules = completep(base_width=64, base_depth=2, depth_exponent=alpha)
    config = rules.configured(make_config(256, 16, tie_word_embeddings=tied, qk_norm="rms"))
    assert config.residual_multiplier == pytest.approx(m_depth**-alpha)
    assert config.output_multiplier == 1 / m_width
    assert config.attention_multiplier == 1
    model = MobileLLM(config)
    optimizer = adamw(model, learning_rate=RATE, weight_decay=DECAY, parametrization=rules)
    for name, group in groups_by_name(model, optimizer).items():
        is_block, is_matrix = name.startswith("blocks."), name.endswith("_proj.weight")
        rate = RATE * (m_depth ** (alpha - 1) if is_block else 1) / (m_width if is_matrix else 1)
        decay = DECAY * m_width if is_matrix else 0 if "norm" in name else DECAY
        eps = EPS / m_width * (m_depth**-alpha if is_block else 1)
        assert group["lr"] == pytest.approx(rate), name
        assert group["weight_decay"] == pytest.approx(decay), name
        assert group["eps"] == pytest.approx(eps), name


@pytest.mark.parametrize("residual_scaling", [True, False])
def test_initial_weights_are_those_of_the_base_shape_scaled_by_inputs(residual_scaling):
    rules, config = completep(base_width=64, base_depth=2), make_config(256, 8, vocab_size=500)
    model = MobileLLM(rules.configured(config))
    scale = rules.initial_scale(model.config)
    initialize_(model, std="hidden", residual_scaling=residual_scaling, seed=0, scale=scale)
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            is_writer = name.endswith(("o_proj.weight", "down_proj.weight"))
            base = 64**-0.5 * ((2 * 2) ** -0.5 if residual_scaling and is_writer else 1)
            expected = base / (1 if name.startswith("embedding") else 2)
            assert parameter.std().item() == pytest.approx(expected, rel=0.03), name


def test_mup_leaves_the_depth_alone():
    rules = mup(base_width=64)
    config = rules.configured(make_config(128, 16))
    assert (config.residual_multiplier, config.output_multiplier) == (1, 0.5)
    assert rules.initial_scale(config).depth == 16
    model = MobileLLM(config)
    optimizer = adamw(model, learning_rate=RATE, parametrization=rules)
    group = groups_by_name(model, optimizer)["blocks.9.feed_forward.up_proj.weight"]
    assert (group["lr"], group["eps"]) == (RATE / 2, EPS / 2)


@pytest.mark.parametrize("make", [adamw, muon])
@pytest.mark.parametrize("changes", [{}, {"block_repeats": 2, "num_blocks": 2}], ids=str)
def test_at_the_base_shape_training_is_that_of_standard(make, changes):
    """The same groups, and the same weights bit for bit."""
    config, rules = make_config(**changes), completep(base_width=64, base_depth=4)
    assert rules.configured(config) == config
    models = []
    for parametrization in (None, rules):
        model = MobileLLM(config)
        scale = parametrization and parametrization.initial_scale(config)
        initialize_(model, std="hidden", residual_scaling=True, seed=1, scale=scale)
        optimizer = make(model, learning_rate=RATE, parametrization=parametrization)
        for step in range(3):
            ids = torch.randint(61, (2, 9), generator=torch.Generator().manual_seed(step))
            loss = F.cross_entropy(model(ids[:, :-1]).logits.flatten(0, 1), ids[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        models.append((model, [g | {"params": len(g["params"])} for g in optimizer.param_groups]))
    assert models[0][1] == models[1][1]
    for one, other in zip(models[0][0].parameters(), models[1][0].parameters(), strict=True):
        assert torch.equal(one, other)


def test_depth_counts_applications():
    rules = completep(base_width=64, base_depth=4)
    shared = rules.configured(make_config(depth=8, block_repeats=2))
    assert shared.residual_multiplier == 0.25
    assert shared == rules.configured(make_config(depth=8, block_repeats=2))
    unshared = rules.configured(make_config(depth=16))
    assert shared.residual_multiplier == unshared.residual_multiplier


def change_of_outputs(config, name, make, rules, **options):
    """How much one step with an aligned gradient changes what a matrix of the first block gives.

    The gradient is that of an output in which all inputs count alike: the largest change that one
    update can make. Returns the root mean square change for inputs of 1.
    """
    model = MobileLLM(rules.configured(config))
    scale = rules.initial_scale(model.config)
    initialize_(model, std=0.1, seed=0, scale=scale)
    layer = model.get_submodule(name)
    rows, columns = config.matrix_sizes[name]
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(2, (columns,), generator=generator).float() * 2 - 1
    wanted = torch.randint(2, (rows,), generator=generator).float() * 2 - 1
    optimizer = make(model, learning_rate=1e-4, weight_decay=0, parametrization=rules, **options)
    before = layer(x)
    (before @ wanted).backward()
    optimizer.step()
    with torch.no_grad():
        return (layer(x) - before).square().mean().sqrt().item()


MATRICES = [f"blocks.0.attention.{n}_proj" for n in "qkvo"]
MATRICES += [f"blocks.0.feed_forward.{n}_proj" for n in ("gate", "up", "down")]


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize(
    ("make", "options"),
    [
        (adamw, {}),
        (muon, {}),
        (muon, {"adjust_learning_rate": "original"}),
    ],
    ids=["adamw", "muon", "muon original"],
)
def test_an_update_changes_outputs_by_the_same_amount_at_every_width(name, make, options):
    rules = completep(base_width=64, base_depth=2)
    changes = [
        change_of_outputs(make_config(width, 2), name, make, rules, **options)
        for width in (64, 256)
    ]
    assert changes[1] / changes[0] == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("make", [adamw, muon])
@pytest.mark.parametrize("name", ["blocks.0.attention.k_proj", "blocks.0.feed_forward.down_proj"])
def test_proportions_that_differ_from_the_base_shape_can_be_given(make, name):
    """Key-value heads that do not grow, and a feed-forward layer that grows faster."""
    rules = completep(
        base_width=64, base_depth=2, base_num_attention_heads=4, base_num_key_value_heads=2,
        base_intermediate_size=128,
    )  # fmt: skip
    base = make_config(64, 2, num_key_value_heads=2, intermediate_size=128)
    wide = make_config(256, 2, num_key_value_heads=2, intermediate_size=1024)
    changes = [change_of_outputs(config, name, make, rules) for config in (base, wide)]
    assert changes[1] / changes[0] == pytest.approx(1, rel=0.05)
    assert rules.configured(base) == base


def compressed(width, kind):
    """One feed-forward matrix of the first block in another form, in proportion to the width."""
    rows, columns = 3 * width, width
    shapes = {
        "low rank": {"parts": [
            {"left": [rows, 1], "right": [1, columns], "num_terms": width // 4}]},
        "kronecker": {"parts": [
            {"left": [rows // 4, columns // 8], "right": [4, 8], "num_terms": 2}]},
        "masked": {"nonzero": rows * columns},
    }  # fmt: skip
    layers = {"blocks.0.feed_forward.up_proj": shapes[kind]}
    return make_config(width, 2, compressed_layers=layers)


@pytest.mark.parametrize("make", [adamw, muon])
@pytest.mark.parametrize("kind", ["low rank", "kronecker", "masked"])
def test_factors_and_masks_keep_the_size_of_updates(kind, make):
    rules = completep(base_width=64, base_depth=2)
    name = "blocks.0.feed_forward.up_proj"
    changes = [
        change_of_outputs(compressed(width, kind), name, make, rules) for width in (64, 256, 1024)
    ]
    # The random part of a product of factors fades with the width.
    assert changes[2] / changes[1] == pytest.approx(1, rel=0.15)
    assert changes[1] / changes[0] == pytest.approx(1, rel=0.3)


def test_a_factorised_table_keeps_the_size_of_its_entries_and_logits():
    """Low rank in proportion to the width: rows change alike, and so do logits of full features."""
    rules, sizes = completep(base_width=64, base_depth=2), []
    for width in (64, 256, 1024):
        part = {"left": [61, 1], "right": [1, width], "num_terms": width // 4}
        config = rules.configured(
            make_config(width, 2, compressed_layers={"embedding": {"parts": [part]}})
        )
        model = MobileLLM(config)
        initialize_(model, std=0.1, seed=0, scale=rules.initial_scale(config))
        optimizer = adamw(model, learning_rate=1e-4, weight_decay=0, parametrization=rules)
        hidden = torch.ones(width)
        before, row = model.unembed(hidden), model.embedding(torch.tensor([3]))
        before[3].backward()
        optimizer.step()
        with torch.no_grad():
            logit = (model.unembed(hidden) - before)[3].item()
            moved = (model.embedding(torch.tensor([3])) - row).square().mean().sqrt().item()
        sizes.append((logit, moved))
    for one, other in zip(sizes[1:], sizes, strict=False):
        assert one[0] / other[0] == pytest.approx(1, rel=0.3)
        assert one[1] / other[1] == pytest.approx(1, rel=0.3)


def test_attention_scores_fall_with_the_head_dim_if_asked():
    """q and k that are aligned: scores of the size that they have in the base shape."""
    asked = mup(base_width=64, base_head_dim=16)
    wide = make_config(256, 2, num_attention_heads=4, num_key_value_heads=4, head_dim=64)
    config = asked.configured(wide)
    assert config.attention_multiplier * 64**-0.5 == pytest.approx(16**0.5 / 64)
    assert mup(base_width=64).configured(make_config(256, 2)).attention_multiplier == 1
    assert asked.configured(make_config(64, 2)).attention_multiplier == 1


def test_projections_beside_the_model_are_scaled_by_its_width():
    rules, config = completep(base_width=64, base_depth=2), make_config(256, 2)
    model = torch.nn.ModuleDict({"auxiliary": torch.nn.Linear(256, 40)})
    model.config = config
    for make in (adamw, muon):
        optimizer = make(model, learning_rate=RATE, parametrization=rules)
        groups = groups_by_name(model, optimizer)
        matrix, bias = groups["auxiliary.weight"], groups["auxiliary.bias"]
        assert matrix["lr"] == pytest.approx(RATE / (4 if make is adamw else math.sqrt(16)))
        assert bias["lr"] == RATE


def test_a_run_says_how_its_settings_are_scaled():
    config = make_config(256, 16)
    assert completep(base_width=64, base_depth=4).describe(config) == (
        "settings are those of 4 layers of width 64, scaled by 4 in width and 4 in depth"
    )
    assert mup(base_width=64).describe(config) == (
        "settings are those of width 64, scaled by 4 in width"
    )


def test_a_model_without_sizes_is_refused():
    with pytest.raises(ValueError, match="parametrization needs the sizes of the model, and Lin"):
        adamw(torch.nn.Linear(4, 4), learning_rate=RATE, parametrization=mup(base_width=64))
