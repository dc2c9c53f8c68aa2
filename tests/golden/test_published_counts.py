"""Parameter counts of published models, from conf/model and from the solver, to the last digit."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mobilellm.accounting import count_parameters, flops_per_token, kv_cache_bytes_per_token
from mobilellm.hydra_app.configuration import instantiate
from mobilellm.search.budget import config_for_budget

PRESETS = Path(__file__).parents[2] / "conf" / "model"

STORED = {
    "mobilellm_125m": 124_635_456,
    "mobilellm_350m": 345_355_200,
    "mobilellm_600m": 603_188_352,
    "mobilellm_1b": 1_005_461_760,
    "mobilellm_1_5b": 1_511_188_800,
    "mobilellm_ls_125m": 124_635_456,
    "mobilellm_ls_350m": 345_355_200,
    "mobilellm_r1_140m": 140_248_512,
    "mobilellm_r1_360m": 359_431_168,
    "mobilellm_r1_950m": 949_685_760,
    "smollm2_135m": 134_515_008,
    "smollm2_360m": 361_821_120,
}

# layers, width, count, dense and attention GFLOPs forward per token at 2048 (arXiv:2402.14905,
# table 11; untied, multi-head, heads of 64).
DEPTH_WIDTH_GRID = [
    (4, 1280, 163_196_160, 0.244, 0.021),
    (6, 1024, 142_619_648, 0.220, 0.025),
    (8, 896, 138_099_584, 0.219, 0.029),
    (12, 768, 134_105_856, 0.219, 0.038),
    (18, 640, 132_406_400, 0.224, 0.047),
    (24, 576, 132_443_712, 0.228, 0.057),
    (30, 512, 135_035_392, 0.237, 0.063),
    (42, 448, 134_681_792, 0.241, 0.077),
    (62, 384, 134_331_264, 0.244, 0.098),
    (5, 2048, 387_995_648, 0.645, 0.042),
    (10, 1536, 381_451_776, 0.665, 0.063),
    (12, 1408, 379_947_392, 0.670, 0.069),
    (15, 1280, 386_702_080, 0.691, 0.079),
    (19, 1152, 376_352_640, 0.679, 0.090),
    (24, 1024, 373_867_520, 0.682, 0.101),
    (28, 960, 371_152_320, 0.681, 0.110),
    (32, 896, 380_363_648, 0.703, 0.117),
    (46, 768, 374_806_272, 0.700, 0.145),
    (66, 640, 376_261_760, 0.711, 0.173),
]


def preset(name):
    return instantiate(OmegaConf.load(PRESETS / f"{name}.yaml"))


@pytest.mark.parametrize(("name", "stored"), STORED.items())
def test_a_preset_has_its_published_count(name, stored):
    assert count_parameters(preset(name)).stored == stored


@pytest.mark.parametrize(
    ("name", "untied"),
    [("mobilellm_125m", 143_067_456), ("mobilellm_1_5b", 1_562_388_800)],
)
def test_untying_adds_one_table(name, untied):
    values = preset(name).to_dict() | {"tie_word_embeddings": False}
    assert count_parameters(type(preset(name)).from_dict(values)).stored == untied


@pytest.mark.parametrize(
    ("shared", "plain", "ratio"),
    [
        ("mobilellm_ls_125m", "mobilellm_125m", 1.85),
        ("mobilellm_ls_350m", "mobilellm_350m", 1.91),
    ],
)
def test_sharing_executes_more_with_as_many_weights(shared, plain, ratio):
    shared, plain = preset(shared), preset(plain)
    assert count_parameters(shared).stored == count_parameters(plain).stored
    assert count_parameters(shared).executed > count_parameters(plain).executed
    dense = [flops_per_token(config, 2048).matmul for config in (shared, plain)]
    assert dense[0] / dense[1] == pytest.approx(ratio, abs=0.005)


def test_dense_flops_of_the_smallest_model():
    assert flops_per_token(preset("mobilellm_125m"), 2048).matmul / 1e9 == pytest.approx(
        0.2492, abs=5e-5
    )


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mobilellm_125m", 23_040),
        ("mobilellm_350m", 40_960),
        ("mobilellm_600m", 61_440),
        ("mobilellm_1b", 69_120),
        ("mobilellm_1_5b", 69_120),
        ("mobilellm_ls_125m", 2 * 23_040),
    ],
)
def test_kv_cache_at_16_bits(name, expected):
    assert kv_cache_bytes_per_token(preset(name)) == expected


@pytest.mark.parametrize(("layers", "width", "count", "dense", "attention"), DEPTH_WIDTH_GRID)
def test_the_papers_grid_comes_out_of_the_solver(layers, width, count, dense, attention):
    rule = {"ffn_rule": "paper", "tie_word_embeddings": False, "group_size": 1}
    config = config_for_budget(count, num_blocks=layers, **rule)
    assert (config.hidden_size, count_parameters(config).stored) == (width, count)
    assert config == config_for_budget(count, layers, width, **rule)
    assert config == config_for_budget(count, hidden_size=width, **rule)
    flops = flops_per_token(config, 2048)
    assert flops.matmul / 1e9 == pytest.approx(dense, abs=6e-4)
    assert flops.attention / 1e9 == pytest.approx(attention, abs=6e-4)


def test_the_relu_baseline_is_as_large_as_swiglu():
    rule = {"num_blocks": 12, "hidden_size": 768, "group_size": 1, "tie_word_embeddings": False}
    relu = config_for_budget(134_105_856, feed_forward="relu", ffn_rule="paper", **rule)
    assert (relu.intermediate_size, count_parameters(relu).stored) == (3072, 134_105_856)
