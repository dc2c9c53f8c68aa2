"""Runs with a parametrisation: what they write, and what is refused before any data is read."""

import pytest
import torch

from mobilellm.checkpoint import load_model
from mobilellm.hydra_app.configuration import compose
from mobilellm.pipeline.plan import plan_run

SHAPE = ["model=by_shape", "model.vocab_size=512", "model.hidden_size=32", "model.num_blocks=2"]
COMPLETEP = [*SHAPE, "parametrization=completep", "parametrization.base_width=16"]


def folder_of(tmp_path, experiment="default"):
    [folder] = [p.parent for p in tmp_path.glob(f"outputs/{experiment}/*/config.yaml")]
    return folder


@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_at_the_base_shape_is_that_of_standard(tiny_run, tmp_path, optimizer):
    """Bit for bit: weights and losses."""
    run = [*SHAPE, f"optimizer={optimizer}"]
    plain = tiny_run(*run)
    based = tiny_run(
        *run, "experiment_name=based", "parametrization=completep",
        "parametrization.base_width=32", "parametrization.base_depth=2",
    )  # fmt: skip
    assert based["val_loss"] == plain["val_loss"]
    assert based["identity"] != plain["identity"]
    states = [
        load_model(folder_of(tmp_path, name) / "model").state_dict()
        for name in ("default", "based")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_multipliers_are_part_of_the_model(tiny_run, tmp_path):
    summary = tiny_run(*COMPLETEP, "parametrization.base_depth=1", "optimizer.learning_rate=4e-3")
    folder = folder_of(tmp_path)
    config = load_model(folder / "model").config
    assert (config.residual_multiplier, config.output_multiplier) == (0.5, 0.5)
    assert summary["model"] == config.to_dict()
    # The rates that are logged are those of the base shape, as they were given.
    assert summary["learning_rate"] == pytest.approx(4e-3)
    header, *rows = (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()
    place = header.split(",").index("learning_rate")
    logged = [float(row.split(",")[place]) for row in rows if row.split(",")[place]]
    assert max(logged) == pytest.approx(4e-3, rel=0.1)
    # Given weights keep their function; another parametrisation would change it.
    further = ["~model", f"init_from={folder}", "max_tokens=128", "experiment_name=further"]
    assert tiny_run(*further)["model"] == summary["model"]
    with pytest.raises(
        ValueError, match=r"was trained with residual_multiplier=0\.5, and the param"
    ):
        tiny_run(*further, "parametrization=completep", "parametrization.base_width=16")


def test_an_extended_run_keeps_the_scales_of_its_groups(tiny_run, tmp_path):
    """It loads the optimizer's groups: the result is that of one run, bit for bit."""
    constant = ["schedule=constant", "schedule.warmup_steps=2", "schedule.warmup_fraction=null"]
    run = [*COMPLETEP, *constant, "optimizer=muon"]
    tiny_run(*run)
    further = f"extend_from={folder_of(tmp_path)}"
    extended = tiny_run(*run, further, "max_tokens=2048", "experiment_name=longer")
    once = tiny_run(*run, "max_tokens=2048", "experiment_name=once")
    assert extended["val_loss"] == once["val_loss"]
    assert extended["model"] == once["model"]


def own_optimizer(model, *, learning_rate, weight_decay):
    return torch.optim.SGD(model.parameters(), lr=learning_rate, weight_decay=weight_decay)


def refusal(tiny_overrides, *overrides):
    with pytest.raises(ValueError) as refused:
        plan_run(compose("train", [*tiny_overrides, *overrides]))
    return str(refused.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["parametrization=completep", "parametrization.base_width=24"],
            "parametrization: base_width=24 gives 1.5 attention heads",
        ),
        (
            ["parametrization=completep", "parametrization.base_depth=null"],
            "parametrization: base_depth=None must be a whole number",
        ),
        (
            ["parametrization=mup", "parametrization.base_width=-1"],
            "parametrization: base_width=-1 must be a whole number of at least 1",
        ),
        (
            ["parametrization=mup", "optimizer=adamw",
             f"optimizer._target_={__name__}.own_optimizer",
             "~optimizer.betas", "~optimizer.eps", "~optimizer.decay_embeddings"],
            f"optimizer._target_={__name__}.own_optimizer takes no parametrization, which sets",
        ),
        (
            ["parametrization=mup", "+model.output_multiplier=0.7"],
            "parametrization: model.output_multiplier=0.7 contradicts the parametrisation",
        ),
        (["+parametrization.base_width=64"], "parametrization has settings (base_width) but no"),
        (
            ["+parametrization._target_=mobilellm.optim.cosine"],
            "parametrization._target_=mobilellm.optim.cosine makes no parametrisation; use",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_refused_before_any_data_is_read(tiny_overrides, overrides, message):
    assert refusal(tiny_overrides, *SHAPE, *overrides).startswith(message)


def test_a_run_at_another_base_shape_is_another_run(tiny_overrides):
    runs = [
        plan_run(compose("train", [*tiny_overrides, *COMPLETEP, *further]))
        for further in ([], ["parametrization.base_width=32"], ["parametrization=mup"])
    ]
    assert len({run.identity for run in runs}) == 3
