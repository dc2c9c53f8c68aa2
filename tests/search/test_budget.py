import logging

import pytest

from mobilellm.accounting import count_parameters, flops_per_token
from mobilellm.models import ModelConfig
from mobilellm.search.budget import config_for_budget, solve_budget
from mobilellm.search.shape_grid import paper_intermediate_size

DEPTHS = [1, 2, 3, 4, 6, 8, 12, 16, 20, 24, 30, 42, 62]


def amount(config, match):
    """The matched quantity; bytes are 4 bits per weight of a block, 6 of the embedding."""
    counts = count_parameters(config)
    if match == "flops":
        return flops_per_token(config, 128).forward
    if match == "bytes":
        norms = config.hidden_size * (2 * config.num_blocks + 1)
        return (4 * (counts.body - norms) + 6 * counts.embedding + 16 * norms) / 8
    return getattr(counts, match)


@pytest.mark.parametrize("num_blocks", DEPTHS)
def test_125m_is_met_within_two_percent_at_every_depth(num_blocks):
    solution = solve_budget(125e6, num_blocks)
    config = solution.config
    assert abs(solution.deviation) <= 0.02
    assert solution.reached == count_parameters(config).stored
    assert config.num_blocks == num_blocks
    assert config.head_dim == 64
    assert config.hidden_size == 64 * config.num_attention_heads
    assert config.intermediate_size % 64 == 0
    assert 2 <= config.intermediate_size / config.hidden_size <= 4
    group = config.num_attention_heads // config.num_key_value_heads
    assert group == max(g for g in (1, 2, 3) if config.num_attention_heads % g == 0)


def test_the_papers_own_shape_comes_out_at_its_depth_and_at_its_width():
    by_depth = config_for_budget(125_000_000, num_blocks=30)
    assert (by_depth.hidden_size, by_depth.intermediate_size) == (576, 1536)
    assert (by_depth.num_attention_heads, by_depth.num_key_value_heads) == (9, 3)
    assert config_for_budget(125_000_000, hidden_size=576) == by_depth


@pytest.mark.parametrize(
    ("budget", "match"),
    [(3e5, "stored"), (1e6, "flops"), (1e6, "body"), (7e6, "stored"), (5e5, "bytes")],
)  # fmt: skip
def test_no_allowed_shape_is_better(match, budget):
    """Against brute force: at every width the best aligned feed-forward width, then the rule."""
    vocab_size = 500
    bits = {"bits": 4, "embedding_bits": 6} if match == "bytes" else {}
    solution = solve_budget(
        budget, 6, match=match, vocab_size=vocab_size, sequence_length=128, tolerance=1, **bits
    )
    head_dim = solution.config.head_dim
    align = {16: 8, 64: 64}[head_dim]
    found = []
    for heads in range(1, solution.config.num_attention_heads * 3 // 2 + 4):
        width = heads * head_dim
        kv_heads = heads // max(g for g in (1, 2, 3) if heads % g == 0)
        at_width = []
        for ffn in range(-(-2 * width // align) * align, 4 * width + 1, align):
            config = ModelConfig(
                vocab_size=vocab_size, hidden_size=width, intermediate_size=ffn, num_blocks=6,
                num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=head_dim,
            )  # fmt: skip
            off = abs(amount(config, match) / budget - 1)
            at_width.append((off, abs(ffn / width - 8 / 3)))
        found.append(min(at_width))
    near = [one for one in found if one[0] <= 0.01]
    ratio = solution.config.intermediate_size / solution.config.hidden_size
    if near:
        assert abs(ratio - 8 / 3) == pytest.approx(min(proportion for _, proportion in near))
        assert abs(solution.deviation) <= 0.01
    else:
        assert abs(solution.deviation) == pytest.approx(min(off for off, _ in found))


@pytest.mark.parametrize("num_blocks", [2, 4, 8, 14, 24])
@pytest.mark.parametrize("block_repeats", [1, 2])
def test_small_budgets_step_finely(num_blocks, block_repeats):
    solution = solve_budget(
        1e6, num_blocks, match="body", vocab_size=2048, block_repeats=block_repeats
    )
    config = solution.config
    assert (config.head_dim, config.intermediate_size % 8) == (16, 0)
    assert abs(solution.deviation) < 0.01
    assert config.num_layers == num_blocks * block_repeats
    assert solution.reached == count_parameters(config).body


@pytest.mark.parametrize("budget", [5e6, 20e6, 50e6, 70e6, 125e6, 1e9])
@pytest.mark.parametrize("num_blocks", [2, 5, 17, 33, 64])
def test_a_body_of_any_size_is_met_at_any_depth(budget, num_blocks):
    assert abs(solve_budget(budget, num_blocks, match="body").deviation) <= 0.02


@pytest.mark.parametrize("sharing", [{}, {"block_repeats": 2, "share_kv": "first"}])
def test_flops_are_matched_at_a_sequence_length(sharing):
    config = config_for_budget(3e8, 12, match="flops", sequence_length=512, **sharing)
    assert flops_per_token(config, 512).forward == pytest.approx(3e8, rel=0.02)
    default = config_for_budget(3e8, 12, match="flops", max_position_embeddings=512, **sharing)
    assert default.hidden_size == config.hidden_size


@pytest.mark.parametrize("width", [256, 384, 576, 1024, 1408])
def test_the_depth_follows_from_the_width(width):
    solution = solve_budget(125e6, hidden_size=width)
    assert solution.config.hidden_size == width
    assert abs(solution.deviation) <= 0.02


@pytest.mark.usefixtures("uneven_schemes")
@pytest.mark.parametrize("scheme", ["reverse", "sandwich", "last_first"])
@pytest.mark.parametrize("given", [{"num_blocks": 6}, {"hidden_size": 128}])
@pytest.mark.parametrize("share_kv", ["own", "first"])
def test_operations_of_any_sharing_scheme_are_met(scheme, given, share_kv):
    solution = solve_budget(
        40e6, **given, match="flops", block_repeats=3, layer_sharing=scheme, vocab_size=2000,
        share_kv=share_kv, max_position_embeddings=128, head_dim=32, alignment=8,
    )  # fmt: skip
    assert solution.reached == flops_per_token(solution.config, 128).forward
    assert abs(solution.deviation) <= 0.02


def test_with_depth_and_width_only_the_feed_forward_width_is_free():
    config = config_for_budget(125e6, num_blocks=12, hidden_size=768)
    assert (config.num_blocks, config.hidden_size) == (12, 768)
    assert count_parameters(config).stored == pytest.approx(125e6, rel=0.02)


@pytest.mark.parametrize("budget", [125_000_000, 125e6, "125e6", "125000000", "125_000_000"])
def test_a_budget_may_be_written_in_any_way(budget):
    assert config_for_budget(budget, 30) == config_for_budget(125_000_000, 30)


def test_every_choice_is_an_argument():
    config = config_for_budget(
        30e6, 8, vocab_size=8000, head_dim=32, group_size=4, alignment=16, block_repeats=3,
        layer_sharing="reverse", share_kv="first", tie_word_embeddings=False, qk_norm="rms",
        feed_forward="relu", max_position_embeddings=512, rope_theta=5e5, eos_token_id=7,
    )  # fmt: skip
    assert config.num_attention_heads == 4 * config.num_key_value_heads
    assert (config.head_dim, config.intermediate_size % 16) == (32, 0)
    assert 3 <= config.intermediate_size / config.hidden_size <= 6
    assert (config.block_repeats, config.layer_sharing, config.share_kv) == (3, "reverse", "first")
    assert (config.tie_word_embeddings, config.qk_norm, config.eos_token_id) == (False, "rms", 7)


@pytest.mark.parametrize("width", [64, 384, 448, 512, 1280])
def test_the_papers_feed_forward_rule(width):
    ffn = paper_intermediate_size(width)
    assert ffn % 256 == 0
    assert 0 <= ffn - 8 / 3 * width < 256


def test_a_ladder_of_20_depths_meets_its_budget():
    for num_blocks in range(2, 42, 2):
        assert abs(solve_budget(125e6, num_blocks).deviation) <= 0.02


def test_how_far_off_a_solution_is_gets_logged(caplog):
    with caplog.at_level(logging.DEBUG, logger="mobilellm.search.budget"):
        config_for_budget(125e6, 30)
    assert "30 blocks of width 576" in caplog.text
    assert "124,635,456 stored parameters, -0.29% of 125,000,000" in caplog.text


def test_a_budget_that_no_shape_meets_is_refused_with_the_nearest():
    message = (
        r"budget=1000000 \(match=stored\) with num_blocks=4 cannot be met within tolerance=0\.02; "
        r"the nearest shape has \d+ stored parameters \(num_blocks=4, hidden_size=\d+, .*\); use "
        r"budget=\d+, another depth or width"
    )
    with pytest.raises(ValueError, match=message):
        solve_budget(1e6, 4, tolerance=0.02)


def test_the_nearest_that_a_refusal_names_is_accepted():
    with pytest.raises(ValueError, match=r"use budget=\d+") as refused:
        solve_budget(1e6, 30)
    nearest = str(refused.value).partition("use budget=")[2].partition(",")[0]
    assert solve_budget(nearest, 30).deviation == 0


def test_a_larger_tolerance_accepts_what_was_refused():
    assert abs(solve_budget(1e6, 30, tolerance=0.5).deviation) > 0.02


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, r"num_blocks=None and hidden_size=None leave the shape open; give one of them"),
        ({"num_blocks": 0}, r"num_blocks=0 must be a whole number of at least 1"),
        ({"num_blocks": 2.5}, r"num_blocks=2\.5 must be a whole number of at least 1"),
        ({"hidden_size": 500}, r"hidden_size=500 must be divisible by head_dim=64; use 448 or 512"),
        (
            {"hidden_size": 448, "group_size": 3},
            r"hidden_size=448 must be divisible by head_dim=64 x group_size=3; use 384 or 576",
        ),
        ({"num_blocks": 4, "match": "body_"}, r"match='body_' is not known; use one of body, "),
        ({"num_blocks": 4, "ffn_rule": "papers"}, r"ffn_rule='papers' is not known; use one of pa"),
        (
            {"num_blocks": 4, "budget": "big"},
            r"budget='big' must be a number from 1 to 1e.13; give",
        ),
        ({"num_blocks": 4, "budget": -3}, r"budget=-3 must be a number from 1 to 1e.13; give"),
        ({"num_blocks": 4, "budget": None}, r"budget=None must be a number from 1 to 1e.13; give"),
        ({"num_blocks": 4, "head_dim": 0}, r"head_dim=0 must be a whole number of at least 1"),
        ({"num_blocks": 4, "head_dim": 15}, r"head_dim=15 must be even"),
        (
            {"num_blocks": 4, "tolerance": -1},
            r"tolerance=-1 must be at least 0",
        ),
        ({"num_blocks": 4, "alignment": 0}, r"alignment=0 must be a whole number of at least 1"),
        ({"num_blocks": 4, "qk_norms": "l2"}, r"field='qk_norms' is not known; use one of q"),
        (
            {"num_blocks": 4, "feed_forward": "gelu"},
            r"feed_forward='gelu' is not known; use one of",
        ),
        (
            {"num_blocks": 4, "intermediate_size": 512},
            r"intermediate_size=512 follows from the budget and cannot be given; use head_dim, ",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        config_for_budget(**arguments)
