"""Token limits by the size of the model or by training FLOPs."""

import logging

import pytest
from omegaconf import OmegaConf

from mobilellm.hydra_app.configuration import compose, plain_config
from mobilellm.pipeline.identity import config_hash
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.token_budget import check_token_limits

SMALL = ["max_tokens=null", "validation_tokens=64"]


def body(model):
    """Parameters of the blocks and the last norm, counted by hand."""
    width, heads, inner = model.hidden_size, model.head_dim, model.intermediate_size
    query = model.num_attention_heads * heads
    key = model.num_key_value_heads * heads
    block = 2 * width * query + 2 * width * key + 3 * width * inner + 2 * width
    return model.num_blocks * block + width


def flops(model, length):
    """6 per weight of each matrix and token, and 6 per entry of scores and weighted sums."""
    width = model.hidden_size
    norms = (2 * model.num_blocks + 1) * width
    query = model.num_attention_heads * model.head_dim
    attended = sum(2 * 2 * query * (at + 1) for at in range(length)) / length
    products = 2 * (body(model) - norms + width * model.vocab_size)
    return 3 * (products + model.num_blocks * attended)


def planned(tiny_overrides, *overrides):
    return plan_run(compose("train", [*tiny_overrides, *overrides]))


@pytest.mark.parametrize("ratio", [0.5, 1, 3.25])
def test_tokens_per_parameter_counts_the_body(tiny_overrides, ratio):
    run = planned(tiny_overrides, *SMALL, f"tokens_per_parameter={ratio}")
    assert run.config["max_tokens"] == int(ratio * body(run.model))
    assert run.budget.total_steps == int(ratio * body(run.model)) // 128
    assert run.config["tokens_per_parameter"] == ratio, "beside what follows from it"


def test_the_size_of_a_step_follows_from_the_tokens_of_the_limit(tiny_overrides):
    auto = ["tokens_per_step=auto", "optimizer=muon", "optimizer.learning_rate=auto"]
    run = planned(tiny_overrides, *SMALL, *auto, "tokens_per_parameter=20")
    same = planned(tiny_overrides, *auto, f"max_tokens={20 * body(run.model)}")
    for name in ("tokens_per_step", "max_tokens", "optimizer"):
        assert run.config[name] == same.config[name]
    assert isinstance(run.config["tokens_per_step"], int)


def test_shapes_of_one_budget_get_the_same_tokens(tiny_overrides):
    """Although their body parameters differ by up to two percent."""
    shapes = ["model=by_budget", "model.match=body", "model.vocab_size=512", *SMALL]
    runs = [
        planned(tiny_overrides, *shapes, "model.budget=5e4", f"model.num_blocks={depth}",
                "tokens_per_parameter=3")
        for depth in (1, 2, 4)
    ]  # fmt: skip
    assert len({body(run.model) for run in runs}) == 3
    assert {run.config["max_tokens"] for run in runs} == {150_000}


@pytest.mark.parametrize("length", [32, 64])
def test_max_flops_are_those_of_training(tiny_overrides, length):
    run = planned(tiny_overrides, *SMALL, "max_flops=1e8", f"sequence_length={length}")
    spent = run.config["max_tokens"] * flops(run.model, length)
    assert 1e8 - flops(run.model, length) < spent <= 1e8


def test_it_is_the_same_run_as_with_the_number(tiny_overrides):
    """However the number of tokens is given, it is one run in one folder."""
    derived = planned(tiny_overrides, *SMALL, "tokens_per_parameter=2")
    number = planned(tiny_overrides, *SMALL, f"max_tokens={derived.config['max_tokens']}")
    other = planned(tiny_overrides, *SMALL, "tokens_per_parameter=3")
    assert derived.identity == number.identity == config_hash(number.config)
    assert other.identity != derived.identity


def test_the_default_of_max_tokens_does_not_apply(tiny_overrides):
    kept = [line for line in tiny_overrides if not line.startswith("max_tokens")]
    run = plan_run(compose("train", [*kept, "tokens_per_parameter=1"]))
    assert run.config["max_tokens"] == body(run.model)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["tokens_per_parameter=2"], r"max_tokens=1536 and tokens_per_parameter=2 both limit the "
                                     r"tokens of a run; keep one of them, and set the other to "
                                     r"null \(max_tokens=null\)"),
        ([*SMALL, "tokens_per_parameter=2", "max_flops=1e9"],
         r"tokens_per_parameter=2 and max_flops=1e\+09 both"),
        ([*SMALL, "tokens_per_parameter=0.01"],
         r"tokens_per_parameter=0.01 \(1.\d+k body parameters\) gives 1\d tokens, less than one "
         r"step, tokens_per_step=128; give more, or smaller steps"),
        ([*SMALL, "tokens_per_parameter=0.001", "tokens_per_step=auto"],
         r"gives \d tokens, less than one step, sequence_length=32; give more"),
        ([*SMALL, "max_flops=1e6"], r"max_flops=1e\+06 \(\d+,\d+ training FLOPs per token\) gives"),
        ([*SMALL, "max_flops=-1"], "max_flops=-1.0 must be above 0"),
        ([*SMALL, "tokens_per_parameter=many"], "tokens_per_parameter"),
    ],
)  # fmt: skip
def test_refusals(tiny_overrides, overrides, message):
    with pytest.raises(ValueError, match=message):
        planned(tiny_overrides, *overrides)


def test_an_override_equal_to_the_default_counts_as_given():
    config = plain_config(compose("train", ["max_flops=1e12"]))
    check_token_limits(config, ["max_flops=1e12", "max_tokens=null"])
    with pytest.raises(ValueError, match=r"max_tokens=1e.06 and max_flops=1e.12 both"):
        check_token_limits(config, ["max_flops=1e12", "max_tokens=1_000_000"])


def test_extended_by_another_limit(tiny_run, tmp_path, caplog):
    """Whichever limit is given now replaces the one of the run."""
    with caplog.at_level(logging.INFO):
        first = tiny_run(*SMALL, "tokens_per_parameter=0.5")
    body_size = first["parameters"]["body"]
    assert f"max_tokens={body_size // 2:,} follows from tokens_per_parameter=0.5" in caplog.text
    folder = tmp_path / "outputs/default" / first["run"]
    double = tiny_run(*SMALL, "tokens_per_parameter=1", f"extend_from={folder}")
    assert double["tokens"] == body_size // 128 * 128
    number = tiny_run("max_tokens=1536", f"extend_from={folder}")
    assert number["tokens"] == 1536
    recorded = OmegaConf.load(tmp_path / "outputs/default" / number["run"] / "config.yaml")
    assert (recorded.max_tokens, recorded.tokens_per_parameter) == (1536, None)
