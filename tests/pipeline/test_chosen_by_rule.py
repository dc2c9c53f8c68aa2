"""Settings that are `auto` in a run: chosen by the recipe rule, recorded, or refused."""

import logging

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from made_up_rule import AUTO, RATE, STEP, folders, logged, numbers
from omegaconf import OmegaConf

from mobilellm.hydra_app.configuration import compose, config_loader, load
from mobilellm.hydra_app.sweep_check import check_sweep
from mobilellm.hydra_app.trial import without_hydra
from mobilellm.pipeline.coordinate_check import plan_check
from mobilellm.pipeline.plan import plan_run
from mobilellm.pipeline.recipe_rule import apply_recipe_rule
from mobilellm.pipeline.sweep import check_run
from mobilellm.run_folder import read_summary

pytestmark = pytest.mark.usefixtures("made_up_rule")
SHAPE = ["model=by_shape", "model.vocab_size=512", "model.num_blocks=2", "model.hidden_size=32"]


def test_the_defaults_are_left_to_the_rule(tiny_overrides):
    mine = [o for o in tiny_overrides if not o.startswith(("tokens_per_step", "optimizer"))]
    run = plan_run(compose("train", mine))
    assert run.config["optimizer"]["_target_"] == "mobilellm.optim.muon"
    assert set(run.rule_choice.settings) == {STEP, RATE}
    assert run.config["tokens_per_step"] in (64, 128), "64 x 1.5 ** 0.5, as a power of two"


def test_the_numbers_are_recorded_and_printed(tiny_run, tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        summary = tiny_run(*AUTO)
    assert summary["chosen_by_rule"] == {STEP: 128, RATE: 0.0141}
    assert summary["rule_extrapolated"] == []
    assert (summary["steps"], summary["learning_rate"]) == (32, 0.0141)
    [folder] = folders(tmp_path)
    assert numbers(OmegaConf.load(folder / "config.yaml")) == (128, 0.0141)
    said = logged(caplog)
    assert "recipe rule: tokens_per_step=128, optimizer.learning_rate=0.0141 for 4,096" in said
    assert "extrapolated" not in said


def test_lines_have_the_width_of_a_terminal(planned):
    from mobilellm.pipeline.start_messages import start_messages

    run = planned("model.hidden_size=256", "schedule=cosine")
    lines = list(start_messages(run))
    assert max(map(len, lines)) <= 80
    assert " ".join(line.strip() for line in lines).startswith(str(run.rule_choice))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([f"{STEP}=256"], {RATE: 0.02}),
        ([f"{RATE}=0.3"], {STEP: 128}),
        ([f"{STEP}=256", f"{RATE}=0.3"], None),
    ],
)
def test_what_is_set_by_hand_stays(planned, given, expected):
    """And a rate is chosen for the step that was set."""
    run = planned(*given)
    assert (run.rule_choice and dict(run.rule_choice.settings)) == expected
    config = {STEP: run.config[STEP], RATE: run.config["optimizer"]["learning_rate"]}
    assert config == {STEP: 256, RATE: 0.3} | (expected or {}) | {
        key: float(value) for key, value in (item.split("=") for item in given)
    }


def test_equal_numbers_make_the_same_run_however_they_were_set(planned):
    by_hand = planned(f"{STEP}=128", f"{RATE}=0.0141")
    assert planned().identity == by_hand.identity
    assert planned("seed=1").identity != by_hand.identity


@pytest.mark.parametrize(
    ("overrides", "windows"),
    [
        (["max_tokens=1024"], 2), (["max_tokens=2300"], 4), (["max_tokens=1900"], 2),
        (["sequence_length=128"], 1),
        (["sequence_length=1024", "validation_tokens=1024"], 1), (["max_tokens=1e6"], 64),
        (["max_tokens=1e6", "max_steps=32"], 4), (["max_tokens=null", "max_steps=32"], 4),
    ],
)  # fmt: skip
def test_a_step_is_a_power_of_two_windows(planned, overrides, windows):
    """The nearest to 64 tokens x (tokens / 1,024) ** 0.5, and at least one."""
    assert planned(*overrides).samples_per_step == windows


def test_a_number_of_steps_leads_to_tokens_of_steps_of_that_size(planned):
    """32 steps of 128 tokens are the 4,096 tokens for which 128 are best."""
    run = planned("max_tokens=null", "max_steps=32")
    assert run.rule_choice.purpose.startswith("4,096 tokens, ")
    given = planned("max_tokens=null", "max_steps=32", f"{STEP}=256")
    assert given.rule_choice.purpose.startswith("8,192 tokens, ")


@pytest.mark.parametrize(("devices", "windows"), [(1, 4), (2, 4), (3, 6), (4, 4), (6, 6), (7, 7)])
def test_each_device_has_a_window(tiny_overrides, devices, windows):
    config = OmegaConf.to_container(compose("train", [*tiny_overrides, *AUTO]), resolve=True)
    model = plan_run(compose("train", tiny_overrides)).model
    chosen, _ = apply_recipe_rule(config, model, None, lambda: devices)
    assert chosen[STEP] == 32 * windows
    assert config[STEP] == "auto", "the given configuration is not modified"


def test_processes_of_one_run_agree(planned):
    run = planned("trainer=ddp", "trainer.accelerator=cpu", "trainer.devices=3")
    assert run.samples_per_step == 6


def test_each_shape_of_a_sweep_has_its_rate(tiny_overrides):
    line = [*tiny_overrides, *AUTO, *SHAPE, "model.hidden_size=16,32", "model.num_blocks=2,4",
            "hydra.mode=MULTIRUN"]  # fmt: skip
    found = []
    with config_loader() as loader:
        check_sweep(loader, "train", line, lambda cfg: found.append(plan_run(cfg)))
    rates = {(run.model.hidden_size, run.model.num_blocks): run.learning_rate for run in found}
    assert rates == {(16, 2): 0.00707, (16, 4): 0.0141, (32, 2): 0.00354, (32, 4): 0.00707}


def test_a_shared_block_counts_at_each_use(planned):
    twice = planned(*SHAPE, "model.block_repeats=2")
    assert (planned(*SHAPE).learning_rate, twice.learning_rate) == (0.00354, 0.00707)


def test_a_parametrisation_scales_from_the_base_shape(planned):
    """Whatever is trained: the rule chooses for the base shape."""
    based = ["parametrization=completep", "parametrization.base_width=16",
             "parametrization.base_depth=4"]  # fmt: skip
    for size in (16, 32, 64):
        run = planned(*SHAPE, *based, f"model.hidden_size={size}")
        assert run.learning_rate == 0.0141
        assert "4 layers of width 16" in run.rule_choice.purpose
    mup = ["parametrization=mup", "parametrization.base_width=16", "model.num_blocks=8"]
    assert "8 layers of width 16" in planned(*SHAPE, *mup).rule_choice.purpose


def test_what_is_outside_the_fitted_range_is_said_and_recorded(tiny_run, planned, caplog):
    outside = ["tokens 200 (fitted from 256 to 100,000)"]
    assert list(planned("max_tokens=200").rule_choice.outside) == outside
    assert tiny_run(*AUTO, "max_tokens=200")["rule_extrapolated"] == outside
    assert str(planned("max_tokens=200").rule_choice).endswith(f"; extrapolated: {outside[0]}")
    wide = planned(*SHAPE, "model.hidden_size=80", "max_tokens=200")
    assert str(wide.rule_choice).endswith(f"{outside[0]} and width 80 (fitted from 4 to 64)")


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], None),
        (["schedule=cosine"], "fitted with schedule=wsd"),
        (["schedule.decay_fraction=0.2"], "fitted with schedule.decay_fraction="),
        (["optimizer.momentum=0.5", "schedule=constant"], " and schedule=wsd"),
        (["optimizer.weight_decay=0.3", "optimizer.eps=1e-6", "optimizer.momentum=0.5",
          "schedule=constant"], " and 1 more"),
    ],
)  # fmt: skip
def test_other_settings_than_those_of_the_fit_are_named(planned, overrides, said):
    text = str(planned(*overrides).rule_choice)
    assert ("fitted" not in text) if said is None else (said in text)


def test_given_weights_are_trained_with_a_lower_rate(planned, saved_run, tiny_overrides):
    mine = [o for o in tiny_overrides if not o.startswith("model")]
    started = [*mine, *AUTO, "~model", f"init_from={saved_run}/model", "max_tokens=1024"]
    run = plan_run(compose("train", started))
    model = run.model
    scratch = 0.01 * 8 / model.hidden_size * model.num_layers / 2
    assert run.learning_rate == pytest.approx(0.3 * scratch, rel=0.01)
    assert "0.3 of the rate for random weights" in run.rule_choice.purpose


def test_a_probe_multiplies_the_rate_of_the_rule(tiny_run, tmp_path):
    summary = tiny_run(*AUTO, "learning_rate_probe=true", "learning_rate_probe_factors=[0.1,1]",
                       "learning_rate_probe_widenings=0")  # fmt: skip
    tried = [trial["learning_rate"] for trial in summary["learning_rates_tried"]]
    assert tried == pytest.approx([0.00141, 0.0141])
    assert summary["learning_rate"] in tried
    assert summary["chosen_by_rule"] == {STEP: 128, RATE: 0.0141}
    probes = [read_summary(folder) for folder in folders(tmp_path, "default/probes/*")]
    assert [probe["chosen_by_rule"] for probe in probes] == [{STEP: 128}] * 2


def test_a_login_node_counts_the_processes_that_slurm_will_start(tiny_overrides):
    """It has to name the folder that the trial will write to."""
    line = [o for o in tiny_overrides if o != "trainer=cpu"]
    line += [*AUTO, "hydra/launcher=slurm", "hydra.launcher.gpus_per_node=8",
             "trainer.accelerator=cuda", "hydra.mode=MULTIRUN"]  # fmt: skip
    with config_loader() as loader:
        config = load(loader, "train", line, RunMode.RUN)
    HydraConfig.instance().set_config(config)
    run = plan_run(without_hydra(config), on_this_machine=False)
    assert run.samples_per_step == 8
    assert check_run(without_hydra(config)) == run.folder


# What is refused.


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["max_tokens=null", "max_seconds=10"],
         r"^tokens_per_step=auto and optimizer\.learning_rate=auto: the recipe rule needs the "
         r"number of training tokens; give max_tokens or max_steps, or numbers for these settings"),
        (["max_tokens=null", "max_seconds=10", f"{STEP}=128"], r"^optimizer\.learning_rate=auto: "),
        (["optimizer._target_=torch.optim.muon"],
         r"there is no recipe rule for the optimizer torch\.optim\.muon; give numbers, or use "
         r"optimizer=muon or adamw"),
        (["optimizer._target_=mobilellm.optim.lion", f"{RATE}=0.1"],
         r"^tokens_per_step=auto: there is no recipe rule .* mobilellm\.optim\.lion; give"),
        ([f"{RATE}=fast"], r"^optimizer\.learning_rate='fast' must be a number above 0 or auto$"),
        ([f"{RATE}=[0.1]"], r"^optimizer\.learning_rate=\[0\.1\] must be a number above 0 or auto"),
        ([f"{RATE}=true"], r"^optimizer\.learning_rate=True must be a number above 0 or auto"),
        ([f"{STEP}=many"], r"^tokens_per_step='many' must be a whole number of at least 1 or auto"),
        ([f"{STEP}=null"], r"^tokens_per_step=None must be a whole number of at least 1 or auto"),
        ([f"~{RATE}"], r"^optimizer\.learning_rate is required and not given"),
        (["micro_batch_size=8"], r"divide the 4 windows of a step .* or larger steps$"),
    ],
)  # fmt: skip
def test_what_the_rule_cannot_choose_is_refused(planned, tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        planned(*overrides)
    assert not (tmp_path / "outputs").exists()


def test_numbers_need_no_rule(planned):
    """Any optimizer and a budget in seconds, as before."""
    by_hand = [f"{STEP}=128", f"{RATE}=0.1", "max_tokens=null", "max_seconds=10"]
    assert planned(*by_hand).rule_choice is None
    with pytest.raises(ValueError, match=r"^tokens_per_step=auto: the recipe rule needs"):
        planned(*by_hand, f"{STEP}=auto")


def test_a_coordinate_check_has_no_budget_to_choose_by():
    with pytest.raises(ValueError, match=r"optimizer: learning_rate='auto' must be a number"):
        plan_check(compose("coordinate_check", [f"{RATE}=auto"]))
    assert plan_check(compose("coordinate_check", ["optimizer=muon", "widths=[16]", "depths=[2]"]))
